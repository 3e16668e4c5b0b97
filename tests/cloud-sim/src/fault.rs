//! Faults on order: which requests they strike, and what becomes of the reply.
//!
//! Faults of connections and of TLS belong to `listener` and `tls`.

use crate::{
    dice::Dice,
    dps::DpsError,
    est::{EstError, Style},
    http::{Delivery, Ending, Reply, Request},
    hub::HubError,
    route::Route,
    settings::{ErrorStyle, RetryAfter},
};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// A rule: strike requests that match, after `skip` of them, `times` times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rule {
    /// Given by the simulator.
    pub(crate) id: u64,
    /// Which requests.
    #[serde(rename = "match")]
    pub(crate) matching: Match,
    /// So many matching requests pass first.
    pub(crate) skip: u64,
    /// Then so many are struck; all when absent.
    pub(crate) times: Option<u64>,
    /// Each of these is struck with this probability only.
    pub(crate) probability: Option<f64>,
    /// What happens.
    pub(crate) action: Action,
    /// Requests that matched so far.
    pub(crate) matched: u64,
    /// Requests that were struck so far.
    pub(crate) fired: u64,
}

/// Which requests a rule is about: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Match {
    /// Of the request line, e.g. `PUT`.
    pub(crate) method: Option<String>,
    /// The encoded path begins with this.
    pub(crate) path_prefix: Option<String>,
    /// The encoded path matches this.
    pub(crate) path_regex: Option<String>,
    /// e.g. `dps.register`, `hub.put`, or a service, `dps`, `hub`, `est`.
    pub(crate) operation: Option<String>,
    /// The hub's name.
    pub(crate) hub: Option<String>,
    /// The listener's name.
    pub(crate) listener: Option<String>,
}

/// What happens to a struck request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Action {
    /// Answer this status, with the service's error body, instead of doing the request.
    pub(crate) status: Option<u16>,
    /// Do the request all the same, and spoil the answer only.
    pub(crate) after: bool,
    /// Before that, change the world behind the client's back.
    pub(crate) change: Option<Change>,
    /// The body: an object as JSON, a string as it is.
    pub(crate) body: Option<Value>,
    /// Headers to set; an empty value removes one.
    pub(crate) headers: BTreeMap<String, String>,
    /// `Retry-After`: seconds, `"date"`, `{"date": seconds}`.
    pub(crate) retry_after: Option<RetryAfter>,
    /// `Content-Type`.
    pub(crate) content_type: Option<String>,
    /// A web page as the body.
    pub(crate) html: bool,
    /// No body.
    pub(crate) empty: bool,
    /// Half of the body, with a `Content-Length` that says so.
    pub(crate) truncated: bool,
    /// A JSON string of so many bytes as the body.
    pub(crate) huge_body: Option<usize>,
    /// The form of a hub's error body.
    pub(crate) error_style: Option<ErrorStyle>,
    /// How EST writes certificates down, instead of as its label does.
    pub(crate) pkcs7: Option<Style>,
    /// Pause before the head.
    pub(crate) delay_ms: u64,
    /// Pause after every 16 bytes of the body.
    pub(crate) slow_body_ms: Option<u64>,
    /// Never answer.
    pub(crate) stall: bool,
    /// TCP reset instead of an answer.
    pub(crate) reset: bool,
    /// Orderly close instead of an answer.
    pub(crate) close_before_reply: bool,
    /// TCP reset of the connection with all requests on it.
    pub(crate) drop_connection: bool,
    /// Say that HTTP/1.1 is required. Requests by HTTP/1.1 are not struck.
    pub(crate) want_http1: bool,
    /// So many bytes of the answer, then a TCP reset.
    pub(crate) reset_after_bytes: Option<usize>,
    /// So many bytes of the answer, then an orderly close.
    pub(crate) close_after_bytes: Option<usize>,
}

/// A change behind the client's back; of the module, device or registration that the request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The module gets a new etag.
    TouchEtag,
    /// The module is deleted and created anew: generation id, etag and keys differ.
    RecreateModule,
    /// The module is deleted.
    DeleteModule,
    /// The device is deleted with its modules.
    DeleteDevice,
    /// DPS forgets the registration's operations.
    ForgetOperations,
}

/// What a rule is matched against besides the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// The operation, from [`Route::operation`].
    pub(crate) operation: &'a str,
    /// The name of the hub that would answer.
    pub(crate) hub: &'a str,
    /// The listener's name.
    pub(crate) listener: &'a str,
}

/// The rules in force.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    rules: Vec<(Rule, Option<Regex>)>,
    last_id: u64,
}

impl Faults {
    /// Add a rule; earlier rules are tried first.
    ///
    /// # Errors
    /// When its regular expression is none.
    pub(crate) fn add(&mut self, rule: Rule) -> Result<Rule, String> {
        let regex = rule.matching.path_regex.as_deref().map(Regex::new).transpose();
        let regex = regex.map_err(|err| format!("path_regex: {err}"))?;
        self.last_id += 1;
        let rule = Rule { id: self.last_id, matched: 0, fired: 0, ..rule };
        self.rules.push((rule.clone(), regex));
        Ok(rule)
    }

    /// All rules with their counts.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<&Rule> {
        self.rules.iter().map(|(rule, _)| rule).collect()
    }

    /// Remove all rules, or the one with this id; tells how many that were.
    pub(crate) fn remove(&mut self, id: Option<u64>) -> usize {
        let before = self.rules.len();
        self.rules.retain(|(rule, _)| id.is_some_and(|id| rule.id != id));
        before - self.rules.len()
    }

    /// The rule that strikes this request, if any; every matching rule counts it.
    pub(crate) fn strike(&mut self, request: &Request, scene: Scene<'_>, dice: &mut Dice) -> Option<Rule> {
        let mut struck = None;
        for (rule, regex) in &mut self.rules {
            let idle = rule.action.want_http1 && request.version != "2";
            if idle || !rule.matching.holds(regex.as_ref(), request, scene) {
                continue;
            }
            rule.matched += 1;
            let due = rule.matched > rule.skip && rule.times.is_none_or(|times| rule.fired < times);
            let lucky = |dice: &mut Dice| rule.probability.is_none_or(|p| dice.chance() < p);
            if struck.is_none() && due && lucky(dice) {
                rule.fired += 1;
                struck = Some(rule.clone());
            }
        }
        struck
    }
}

impl Match {
    fn holds(&self, regex: Option<&Regex>, request: &Request, scene: Scene<'_>) -> bool {
        let all = |wanted: &Option<String>, holds: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(holds);
        let operation = |wanted: &str| {
            let rest = scene.operation.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        all(&self.method, &|method| request.method.eq_ignore_ascii_case(method))
            && all(&self.path_prefix, &|prefix| request.path().starts_with(prefix))
            && regex.is_none_or(|regex| regex.is_match(request.path()))
            && all(&self.operation, &operation)
            && all(&self.hub, &|hub| hub.eq_ignore_ascii_case(scene.hub))
            && all(&self.listener, &|listener| listener == scene.listener)
    }
}

impl Action {
    /// Whether the service does the request.
    #[must_use]
    pub(crate) fn lets_the_service_act(&self) -> bool {
        let reset = self.reset || self.drop_connection || self.want_http1;
        let replaces = self.status.is_some() || self.stall || reset || self.close_before_reply;
        self.after || !replaces
    }

    /// The reply after this action, made from the service's own or from nothing.
    #[must_use]
    pub(crate) fn reply(
        &self,
        own: Reply,
        route: &Route,
        style: ErrorStyle,
        now_ms: i64,
        dice: &mut Dice,
    ) -> Reply {
        let mut reply = match self.status {
            None => own,
            Some(status) if status < 400 => Reply::empty(status),
            Some(status) if route.operation("").starts_with("dps") => {
                DpsError::injected(status).reply(now_ms, dice)
            }
            Some(status) if route.operation("").starts_with("est") => {
                EstError::new(status, format!("injected fault, status {status}")).reply()
            }
            Some(status) => HubError::injected(status).reply(self.error_style.unwrap_or(style), now_ms, dice),
        };
        match &self.body {
            Some(Value::String(text)) => reply.body = text.clone().into_bytes(),
            Some(json) => reply = with_headers(Reply::json(reply.status, json), reply.headers),
            None => {}
        }
        if let Some(size) = self.huge_body {
            let huge = Value::String("x".repeat(size.saturating_sub(2)));
            reply = with_headers(Reply::json(reply.status, &huge), reply.headers);
        }
        if self.html {
            reply = Reply::html(reply.status);
        }
        if self.empty {
            reply.body.clear();
            reply.headers.retain(|(name, _)| name != "content-type");
        }
        if self.truncated {
            reply.body.truncate(reply.body.len() / 2);
        }
        if let Some(value) = self.retry_after.and_then(|after| after.value(now_ms)) {
            reply = reply.with("retry-after", value);
        }
        if let Some(value) = &self.content_type {
            reply = reply.with("content-type", value);
        }
        for (name, value) in &self.headers {
            reply = reply.with(name, value);
        }
        reply.headers.retain(|(_, value)| !value.is_empty());
        reply
    }

    /// How the reply is delivered.
    #[must_use]
    pub(crate) fn delivery(&self) -> Delivery {
        let ending = if self.drop_connection {
            Ending::DropConnection
        } else if self.want_http1 {
            Ending::WantHttp1
        } else if self.stall {
            Ending::Stall
        } else if self.reset {
            Ending::ResetAfter(0)
        } else if self.close_before_reply {
            Ending::CloseAfter(0)
        } else if let Some(bytes) = self.reset_after_bytes {
            Ending::ResetAfter(bytes)
        } else {
            self.close_after_bytes.map_or(Ending::Complete, Ending::CloseAfter)
        };
        let drip = self.slow_body_ms.map(Duration::from_millis);
        Delivery { delay: Duration::from_millis(self.delay_ms), drip, ending }
    }
}

fn with_headers(reply: Reply, headers: Vec<(String, String)>) -> Reply {
    let others = headers.into_iter().filter(|(name, _)| name != "content-type");
    others.fold(reply, |reply, (name, value)| reply.with(&name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(rules: &[Value]) -> Faults {
        let mut faults = Faults::default();
        for rule in rules {
            faults.add(serde_json::from_value(rule.clone()).unwrap()).unwrap();
        }
        faults
    }

    fn strikes(faults: &mut Faults, method: &str, target: &str, count: usize) -> Vec<u64> {
        let request = Request { method: method.into(), target: target.into(), ..Request::default() };
        let scene =
            Scene { operation: Route::of(&request).operation(method), hub: "localhost:1", listener: "cloud" };
        let mut dice = Dice::new(1);
        (0..count).map(|_| faults.strike(&request, scene, &mut dice).map_or(0, |rule| rule.id)).collect()
    }

    #[test]
    fn a_rule_strikes_the_kth_request_only() {
        let rule =
            json!({"match": {"operation": "hub.put"}, "skip": 2, "times": 1, "action": {"status": 503}});
        let mut faults = faults(&[rule]);
        assert_eq!(strikes(&mut faults, "GET", "/devices/d/modules", 3), [0, 0, 0]);
        assert_eq!(strikes(&mut faults, "PUT", "/devices/d/modules/m", 5), [0, 0, 1, 0, 0]);
        assert_eq!((faults.list()[0].matched, faults.list()[0].fired), (5, 1));
        assert_eq!((faults.remove(Some(9)), faults.remove(Some(1)), faults.remove(None)), (0, 1, 0));
    }

    #[test]
    fn everything_given_must_hold() {
        for (matching, strikes_it) in [
            (json!({}), true),
            (json!({"operation": "hub", "method": "put", "path_prefix": "/devices/d"}), true),
            (json!({"path_regex": "^/devices/[^/]+/modules/m$", "hub": "LOCALHOST:1"}), true),
            (json!({"listener": "cloud"}), true),
            (json!({"operation": "hu"}), false),
            (json!({"operation": "hub", "method": "GET"}), false),
            (json!({"path_regex": "^/modules"}), false),
            (json!({"hub": "localhost:2"}), false),
            (json!({"listener": "hub-1"}), false),
        ] {
            let mut faults = faults(&[json!({"match": matching})]);
            let struck = strikes(&mut faults, "PUT", "/devices/d/modules/m", 1) == [1];
            assert_eq!(struck, strikes_it, "{matching}");
        }
        assert!(
            Faults::default()
                .add(serde_json::from_value(json!({"match": {"path_regex": "("}})).unwrap())
                .is_err()
        );
        assert!(serde_json::from_value::<Rule>(json!({"action": {"statsu": 500}})).is_err());
    }

    #[test]
    fn probability_strikes_some() {
        let mut faults = faults(&[json!({"probability": 0.5})]);
        let hits: u64 = strikes(&mut faults, "GET", "/", 200).into_iter().sum();
        assert!((60..140).contains(&hits), "{hits}");
    }

    #[test]
    fn actions_replace_or_spoil_the_reply() {
        let shape = |action: Value, target: &str| {
            let action: Action = serde_json::from_value(action).unwrap();
            let route = Route::of(&Request { target: target.into(), ..Request::default() });
            let own = Reply::json(200, &json!({"own": true})).with("etag", "1");
            action.reply(own, &route, ErrorStyle::Classic, 0, &mut Dice::new(1))
        };
        let hub = "/devices/d/modules";
        assert_eq!(
            shape(json!({"status": 503}), hub).body_value()["Message"],
            "ErrorCode:ServiceUnavailable;injected fault, status 503"
        );
        assert_eq!(shape(json!({"status": 429}), "/s/registrations/r").body_value()["errorCode"], 429_001);
        let throttled = shape(json!({"status": 429, "retry_after": "date"}), hub);
        assert!(throttled.headers.contains(&("retry-after".into(), "Thu, 01 Jan 1970 00:00:03 GMT".into())));
        assert_eq!(shape(json!({"truncated": true}), hub).body, b"{\"own\"");
        let patched = shape(json!({"body": {"a": 1}, "headers": {"etag": "", "x": "y"}}), hub);
        assert_eq!(patched.body, b"{\"a\":1}");
        assert_eq!(
            patched.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["content-type", "x"]
        );
        assert_eq!(shape(json!({"huge_body": 5000}), hub).body.len(), 5000);
        assert!(
            shape(json!({"html": true}), hub).headers.contains(&("content-type".into(), "text/html".into()))
        );
        assert_eq!(shape(json!({"empty": true}), hub).body, b"");
    }
}
