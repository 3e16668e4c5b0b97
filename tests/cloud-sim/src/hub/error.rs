//! What a hub refuses, and the forms in which hubs and gateways say so.

use crate::{clock::iso, dice::Dice, http::Reply, settings::ErrorStyle};
use serde_json::json;

/// A refusal of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubError {
    /// HTTP status.
    pub(crate) status: u16,
    /// The six-digit code of the newer form.
    pub(crate) code: u32,
    /// The code's name, as in `iothub-errorcode`.
    pub(crate) name: &'static str,
    /// For a person; also the reason in the log.
    pub(crate) message: String,
}

impl HubError {
    /// The request is not well-formed.
    #[must_use]
    pub(crate) fn argument(message: &str) -> HubError {
        HubError { status: 400, code: 400_004, name: "ArgumentInvalid", message: message.to_owned() }
    }

    /// The api-version is missing or unknown.
    #[must_use]
    pub(crate) fn version(version: Option<&str>) -> HubError {
        let message = match version {
            Some(version) => format!("api-version {version} is not supported"),
            None => "the request has no api-version".to_owned(),
        };
        HubError { status: 400, code: 400_001, name: "InvalidProtocolVersion", message }
    }

    /// The credentials do not prove the right to this.
    #[must_use]
    pub(crate) fn unauthorized(message: &str) -> HubError {
        HubError { status: 401, code: 401_003, name: "IotHubUnauthorized", message: message.to_owned() }
    }

    /// No such device; services differ in the status.
    #[must_use]
    pub(crate) fn device_not_found(device: &str, status: u16) -> HubError {
        let message = format!("the hub does not contain the device {device}");
        match status {
            401 => HubError::unauthorized(&message),
            _ => HubError { status, code: 404_001, name: "DeviceNotFound", message },
        }
    }

    /// No such module.
    #[must_use]
    pub(crate) fn module_not_found(device: &str, module: &str) -> HubError {
        let message = format!("the device {device} has no module {module}");
        HubError { status: 404, code: 404_010, name: "ModuleNotFound", message }
    }

    /// A create of what is there.
    #[must_use]
    pub(crate) fn module_exists(device: &str, module: &str) -> HubError {
        let message = format!("the device {device} already has a module {module}");
        HubError { status: 409, code: 409_301, name: "ModuleAlreadyExistsOnDevice", message }
    }

    /// `If-Match` is stale or missing.
    #[must_use]
    pub(crate) fn precondition(message: &str) -> HubError {
        HubError { status: 412, code: 412_001, name: "PreconditionFailed", message: message.to_owned() }
    }

    /// One module more than a device may have.
    #[must_use]
    pub(crate) fn too_many_modules(device: &str, limit: usize) -> HubError {
        let message = format!("the device {device} already has {limit} modules");
        HubError { status: 413, code: 413_003, name: "TooManyModulesOnDevice", message }
    }

    /// A method that the path does not have.
    #[must_use]
    pub(crate) fn method(method: &str) -> HubError {
        let message = format!("{method} is not allowed here");
        HubError { status: 405, code: 405_001, name: "MethodNotAllowed", message }
    }

    /// An error that a test asked for.
    #[must_use]
    pub(crate) fn injected(status: u16) -> HubError {
        let name = match status {
            401 => "IotHubUnauthorized",
            403 => "IotHubQuotaExceeded",
            404 => "DeviceNotFound",
            412 => "PreconditionFailed",
            429 => "ThrottlingException",
            503 => "ServiceUnavailable",
            500..=599 => "ServerError",
            _ => "ArgumentInvalid",
        };
        let message = format!("injected fault, status {status}");
        HubError { status, code: u32::from(status) * 1000 + 1, name, message }
    }

    /// The reply that says so in `style`.
    #[must_use]
    pub(crate) fn reply(&self, style: ErrorStyle, now_ms: i64, dice: &mut Dice) -> Reply {
        let (tracking, time) = (dice.uuid(), iso(now_ms));
        let classic = json!({
            "Message": format!("ErrorCode:{};{}", self.name, self.message),
            "ExceptionMessage": format!("Tracking ID:{tracking}-TimeStamp:{time}"),
        });
        let reply = match style {
            ErrorStyle::Classic => Reply::json(self.status, &classic),
            ErrorStyle::Newer => Reply::json(
                self.status,
                &json!({"errorCode": self.code, "message": self.message, "trackingId": tracking, "timestampUtc": time}),
            ),
            ErrorStyle::Gateway if self.status == 401 => Reply::empty(401),
            ErrorStyle::Gateway => Reply::json(self.status, &json!({"errorMessage": self.message})),
            ErrorStyle::GatewayOffline => {
                Reply::json(self.status, &json!({"errorMessage": self.message, "networkError": true}))
            }
            ErrorStyle::Empty => Reply::empty(self.status),
            ErrorStyle::Html => Reply::html(self.status),
            ErrorStyle::Truncated => {
                let mut reply = Reply::json(self.status, &classic);
                reply.body.truncate(reply.body.len() / 2);
                reply
            }
        };
        match style {
            ErrorStyle::Classic | ErrorStyle::Newer | ErrorStyle::Truncated => {
                reply.with("iothub-errorcode", self.name).with("x-ms-request-id", tracking)
            }
            _ => reply,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_keeps_the_status() {
        let say = |style| HubError::module_not_found("d", "m").reply(style, 0, &mut Dice::new(1));
        for (style, member, coded) in [
            (ErrorStyle::Classic, "Message", true),
            (ErrorStyle::Newer, "errorCode", true),
            (ErrorStyle::Gateway, "errorMessage", false),
            (ErrorStyle::GatewayOffline, "networkError", false),
        ] {
            let reply = say(style);
            assert_eq!(reply.status, 404);
            assert!(reply.body_value()[member] != serde_json::Value::Null, "{style:?}");
            assert_eq!(reply.headers.contains(&("iothub-errorcode".into(), "ModuleNotFound".into())), coded);
        }
        assert!(say(ErrorStyle::Empty).body.is_empty() && say(ErrorStyle::Empty).headers.is_empty());
        assert!(say(ErrorStyle::Html).body_value().is_string());
        assert!(say(ErrorStyle::Truncated).body_value().is_string());
    }
}
