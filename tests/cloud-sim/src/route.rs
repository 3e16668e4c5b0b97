//! Which operation of which service a request addresses. It does not know what operations do.

use crate::http::Request;

/// What a path addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/{scope}/registrations/{id}/register`
    Register(Registrant),
    /// `/{scope}/registrations/{id}/operations/{operation}`
    Operation(Registrant, String),
    /// `/{scope}/registrations/{id}`
    Registration(Registrant),
    /// `/devices/{device}/modules`
    Modules(String),
    /// `/devices/{device}/modules/{module}`
    Module(String, String),
    /// `/devices/{device}/messages/events`
    DeviceEvents(String),
    /// `/devices/{device}/modules/{module}/messages/events`
    ModuleEvents(String, String),
    /// `/.well-known/est[/{label}]/{operation}`: label, if named, and operation.
    Est(Option<String>, String),
    /// Anything else.
    Unknown,
}

/// Who registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registrant {
    /// The id scope as sent.
    pub(crate) scope: String,
    /// The registration id as sent.
    pub(crate) id: String,
}

impl Route {
    /// The route of a request's path.
    #[must_use]
    pub(crate) fn of(request: &Request) -> Route {
        let segments = request.segments();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let who = |scope: &str, id: &str| Registrant { scope: scope.to_owned(), id: id.to_owned() };
        let own = |text: &str| text.to_owned();
        match segments[..] {
            ["devices", device, "modules"] => Route::Modules(own(device)),
            ["devices", device, "modules", module] => Route::Module(own(device), own(module)),
            ["devices", device, "messages", "events"] => Route::DeviceEvents(own(device)),
            ["devices", device, "modules", module, "messages", "events"] => {
                Route::ModuleEvents(own(device), own(module))
            }
            [".well-known", "est", operation] => Route::Est(None, own(operation)),
            [".well-known", "est", label, operation] => Route::Est(Some(own(label)), own(operation)),
            [scope, "registrations", id] => Route::Registration(who(scope, id)),
            [scope, "registrations", id, "register"] => Route::Register(who(scope, id)),
            [scope, "registrations", id, "operations", operation] => {
                Route::Operation(who(scope, id), own(operation))
            }
            _ => Route::Unknown,
        }
    }

    /// `service.operation`, for the log, the counters and the matching of faults.
    #[must_use]
    pub(crate) fn operation(&self, method: &str) -> &'static str {
        match (self, method) {
            (Route::Register(_), "PUT") => "dps.register",
            (Route::Operation(..), "GET") => "dps.poll",
            (Route::Registration(_), "POST") => "dps.lookup",
            (Route::Modules(_), "GET") => "hub.list",
            (Route::Module(..), "GET") => "hub.get",
            (Route::Module(..), "PUT") => "hub.put",
            (Route::Module(..), "DELETE") => "hub.delete",
            (Route::DeviceEvents(_), "POST") => "hub.device_event",
            (Route::ModuleEvents(..), "POST") => "hub.module_event",
            (Route::Register(_) | Route::Operation(..) | Route::Registration(_), _) => "dps.other",
            (Route::Est(_, operation), method) => match (operation.as_str(), method) {
                ("cacerts", "GET") => "est.cacerts",
                ("csrattrs", "GET") => "est.csrattrs",
                ("simpleenroll", "POST") => "est.enroll",
                ("simplereenroll", "POST") => "est.reenroll",
                _ => "est.other",
            },
            (Route::Unknown, _) => "unknown",
            _ => "hub.other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_after_splitting() {
        for (method, target, operation) in [
            ("PUT", "/0ne/registrations/a%3Db/register?api-version=1", "dps.register"),
            ("GET", "https://h:1/0ne/registrations/a/operations/4.x", "dps.poll"),
            ("POST", "/0ne/registrations/a", "dps.lookup"),
            ("GET", "/0ne/registrations/a", "dps.other"),
            ("GET", "/devices/d/modules", "hub.list"),
            ("GET", "/devices/d/modules/", "hub.get"),
            ("PATCH", "/devices/d/modules/m", "hub.other"),
            ("DELETE", "/devices/d%2Fmodules/modules/m", "hub.delete"),
            ("POST", "/devices/d/modules/m/messages/events", "hub.module_event"),
            ("GET", "/.well-known/est/cacerts", "est.cacerts"),
            ("POST", "/.well-known/est/plant/simplereenroll", "est.reenroll"),
            ("POST", "/.well-known/est/serverkeygen", "est.other"),
            ("GET", "/", "unknown"),
            ("GET", "/devices/d", "unknown"),
        ] {
            let request = Request { method: method.into(), target: target.into(), ..Request::default() };
            assert_eq!(Route::of(&request).operation(method), operation, "{method} {target}");
        }
        let request = Request { target: "/devices/d%2Fe/modules/m%20n".into(), ..Request::default() };
        assert_eq!(Route::of(&request), Route::Module("d/e".into(), "m n".into()));
    }
}
