//! The cloud as a whole: takes a request from a door, strikes it with a fault or has a service answer it, logs it.
//!
//! No sockets here, and nothing waits: a whole decision is made under one lock.

use crate::{
    answer::Answer,
    call::Call,
    certificate::ClientCertificate,
    clock::Clock,
    clock::http_date,
    dps,
    est::{self, DEFAULT_LABEL, Issuing, Style},
    fault::{Action, Change, Faults, Rule, Scene},
    http::{Delivery, Reply, Request},
    hub::{self, ModuleSpec},
    log::{Counters, Entry, Log},
    route::Route,
    sas::{Token, decode},
    settings::ErrorStyle,
    world::World,
};
use serde_json::json;
use std::sync::{Mutex, MutexGuard};

/// What stands behind a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// DPS, and the first hub.
    Cloud,
    /// The hub at this position.
    Hub(usize),
    /// A parent gateway: any hub, found by the token's audience.
    Gateway,
    /// EST.
    Est,
}

/// From where a request came.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The listener's name.
    pub(crate) listener: String,
    /// What stands behind it.
    pub(crate) role: Role,
    /// The connection's number.
    pub(crate) connection: u64,
    /// What the client showed in the handshake.
    pub(crate) client_certificate: Option<ClientCertificate>,
}

/// What the listener has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The reply.
    pub(crate) reply: Reply,
    /// How it is delivered.
    pub(crate) delivery: Delivery,
    /// Its `Date` header.
    pub(crate) date: String,
}

/// The cloud, shared by all listeners.
#[derive(Debug)]
pub(crate) struct Cloud {
    state: Mutex<State>,
}

/// A request that is not yet answered to the end.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Cloud);

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct State {
    /// What is remembered.
    pub(crate) world: World,
    /// The CA behind EST.
    pub(crate) issuing: Issuing,
    /// What time it is.
    pub(crate) clock: Clock,
    /// What goes wrong.
    pub(crate) faults: Faults,
    /// What happened.
    pub(crate) log: Log,
    /// How often.
    pub(crate) counters: Counters,
    /// Whether the world has changed since it was last saved.
    pub(crate) dirty: bool,
}

impl Cloud {
    /// A cloud that remembers `world` and issues certificates by `issuing`.
    #[must_use]
    pub(crate) fn new(world: World, issuing: Issuing) -> Cloud {
        let state = State {
            world,
            issuing,
            clock: Clock::default(),
            faults: Faults::default(),
            log: Log::default(),
            counters: Counters::default(),
            dirty: true,
        };
        Cloud { state: Mutex::new(state) }
    }

    /// The state, for as long as the guard lives.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a bug; what it left is still the best state there is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Decide one request. It is under way until the second value is dropped.
    pub(crate) fn handle(&self, origin: &Origin, request: &Request) -> (Outcome, UnderWay<'_>) {
        let mut state = self.state();
        let counters = &mut state.counters;
        counters.requests_under_way += 1;
        counters.most_under_way = counters.most_under_way.max(counters.requests_under_way);
        (state.handle(origin, request), UnderWay(self))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().counters.requests_under_way -= 1;
    }
}

impl State {
    fn handle(&mut self, origin: &Origin, request: &Request) -> Outcome {
        let now_ms = self.clock.now_ms();
        let call = Call { request, certificate: origin.client_certificate.as_ref(), now_ms };
        let route = Route::of(request);
        let operation = route.operation(&request.method);
        let hub = self.hub_for(origin, request);
        let hub_name = self.world.hubs.get(hub).map(|hub| hub.name.clone()).unwrap_or_default();
        let style = match (origin.role, self.world.settings.error_style) {
            (Role::Gateway, ErrorStyle::Classic) => ErrorStyle::Gateway,
            (_, style) => style,
        };
        let scene = Scene { operation, hub: &hub_name, listener: &origin.listener };
        let rule = self.faults.strike(request, scene, &mut self.world.dice);
        let action = rule.as_ref().map(|rule| &rule.action);
        if let Some(change) = action.and_then(|action| action.change) {
            self.change(change, hub, &route);
        }
        let answer = match action {
            Some(action) if !action.lets_the_service_act() => Answer::default(),
            _ => {
                let pkcs7 = action.and_then(|action| action.pkcs7.as_ref());
                self.serve(origin, hub, style, pkcs7, &call, &route)
            }
        };
        self.dirty |= request.method != "GET" || operation == "dps.poll";
        let (reply, delivery) = match action {
            None => (answer.reply, Delivery::default()),
            Some(action) => {
                let reply = action.reply(answer.reply, &route, style, now_ms, &mut self.world.dice);
                (reply, action.delivery())
            }
        };
        let (decision, reason) = verdict(rule.as_ref(), answer.refused);
        let entry = Entry {
            listener: origin.listener.clone(),
            connection: origin.connection,
            operation,
            hub: operation.starts_with("hub.").then_some(hub_name),
            client_certificate: origin.client_certificate.as_ref().map(ClientCertificate::facts),
            decision,
            reason,
            notes: answer.notes,
            ..Entry::new(request, &reply, now_ms / 1000)
        };
        self.record(entry);
        Outcome { reply, delivery, date: http_date(now_ms) }
    }

    fn serve(
        &mut self,
        origin: &Origin,
        hub: usize,
        style: ErrorStyle,
        pkcs7: Option<&Style>,
        call: &Call<'_>,
        route: &Route,
    ) -> Answer {
        match (route, origin.role) {
            (Route::Est(label, operation), Role::Est) => {
                let label = label.as_deref().unwrap_or(DEFAULT_LABEL);
                est::serve(&mut self.world, &self.issuing, call, label, operation, pkcs7)
            }
            (Route::Register(_) | Route::Operation(..) | Route::Registration(_), Role::Cloud) => {
                dps::serve(&mut self.world, call, route)
            }
            (
                Route::Modules(_) | Route::Module(..) | Route::DeviceEvents(_) | Route::ModuleEvents(..),
                Role::Cloud | Role::Hub(_) | Role::Gateway,
            ) => hub::serve(&mut self.world, hub, style, call, route),
            _ => {
                let message = format!("there is nothing at {}", call.request.path());
                let reply = Reply::json(404, &json!({"errorCode": 404_000, "message": message}));
                Answer { reply, refused: Some(message), notes: Vec::new() }
            }
        }
    }

    /// The position of the hub that a request is for.
    fn hub_for(&self, origin: &Origin, request: &Request) -> usize {
        let position =
            |name: &str| self.world.hubs.iter().position(|hub| hub.name.eq_ignore_ascii_case(name));
        match origin.role {
            Role::Gateway => {
                let token = request.header("authorization").and_then(|header| Token::parse(header).ok());
                let audience = token.map(|token| decode(&token.sr)).unwrap_or_default();
                audience.split('/').next().and_then(position).unwrap_or_default()
            }
            Role::Cloud | Role::Est => request.host().and_then(position).unwrap_or_default(),
            Role::Hub(own) => request.host().and_then(position).unwrap_or(own),
        }
    }

    fn change(&mut self, change: Change, hub: usize, route: &Route) {
        let World { hubs, dice, operations, .. } = &mut self.world;
        if let (Change::ForgetOperations, Route::Operation(who, _) | Route::Register(who)) = (change, route) {
            let id = who.id.to_lowercase();
            operations.retain(|_, operation| operation.registration_id != id);
        }
        let (Route::Modules(device_id)
        | Route::Module(device_id, _)
        | Route::DeviceEvents(device_id)
        | Route::ModuleEvents(device_id, _)) = route
        else {
            return;
        };
        let Some(hub) = hubs.get_mut(hub) else { return };
        if change == Change::DeleteDevice {
            hub.devices.remove(device_id);
        }
        let (Route::Module(_, id) | Route::ModuleEvents(_, id)) = route else { return };
        let Some(device) = hub.devices.get_mut(device_id) else { return };
        let Some(module) = device.modules.get_mut(id) else { return };
        match change {
            Change::TouchEtag => module.etag = dice.etag(),
            Change::DeleteModule => drop(device.modules.remove(id)),
            Change::RecreateModule => {
                let managed_by = module.managed_by.clone();
                device.insert(id, ModuleSpec { managed_by, ..ModuleSpec::default() }, dice);
            }
            Change::DeleteDevice | Change::ForgetOperations => {}
        }
    }

    fn record(&mut self, entry: Entry) {
        self.counters.requests += 1;
        *self.counters.by_operation.entry(entry.operation).or_default() += 1;
        *self.counters.by_status.entry(entry.status).or_default() += 1;
        self.log.push(entry, self.world.settings.log_limit);
    }
}

fn verdict(rule: Option<&Rule>, refused: Option<String>) -> (&'static str, Option<String>) {
    match (rule, refused) {
        (Some(rule), refused) => {
            let tail = refused.map(|why| format!("; the service refused: {why}")).unwrap_or_default();
            let undone = if Action::lets_the_service_act(&rule.action) { "" } else { ", request not done" };
            ("fault", Some(format!("rule {}{undone}{tail}", rule.id)))
        }
        (None, Some(why)) => ("refused", Some(why)),
        (None, None) => ("accepted", None),
    }
}
