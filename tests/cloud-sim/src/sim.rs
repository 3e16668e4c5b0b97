//! A simulator in this process: bind, issue certificates, serve on threads of its own until dropped.

use crate::{
    admin::Admin,
    authority::Authority,
    cloud::{Cloud, Role},
    est::Issuing,
    http::{Reply, Request},
    listener::{BACKLOG, Door, bind, serve_cloud, serve_plain},
    store,
    tls::{TlsMode, acceptor},
    world::World,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{io, path::PathBuf, sync::Arc};
use tempfile::TempDir;
use tokio::{net::TcpSocket, runtime::Runtime};

/// What a simulator is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port of DPS and the first hub; 0 for any.
    pub port: u16,
    /// Port of the admin listener; 0 for any.
    pub admin_port: u16,
    /// Where `ca.pem` and `ready.json` go; a temporary directory when absent.
    pub dir: Option<PathBuf>,
    /// Where the state is kept over restarts.
    pub state: Option<PathBuf>,
    /// Makes ids and keys repeat from run to run.
    pub seed: Option<u64>,
    /// The id scope of DPS.
    pub scope: String,
    /// Host names for the certificate, besides `localhost` and 127.0.0.1; the first is used in `ready.json`.
    pub hosts: Vec<String>,
    /// Hubs with a listener each; the first shares that of DPS.
    pub hubs: u16,
    /// Further hubs, chosen on any listener by the host that a request names.
    pub hub_names: Vec<String>,
    /// Parent gateways, each with a listener.
    pub gateways: u16,
    /// Port of the EST server, 0 for any; no such server when absent.
    pub est: Option<u16>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            port: 0,
            admin_port: 0,
            dir: None,
            state: None,
            seed: None,
            scope: DEFAULT_SCOPE.to_owned(),
            hosts: Vec::new(),
            hubs: 1,
            hub_names: Vec::new(),
            gateways: 0,
            est: None,
        }
    }
}

/// Where everything is; also the content of `ready.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The global endpoint of DPS, an https URL without a path.
    pub dps: String,
    /// The id scope.
    pub scope: String,
    /// The hubs' names, with ports.
    pub hubs: Vec<String>,
    /// The gateways' host names, with ports.
    pub gateways: Vec<String>,
    /// The URL that EST operations are appended to, after a slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub est: Option<String>,
    /// The admin listener's URL without a path.
    pub admin: String,
    /// The file with the CA certificate that devices must trust.
    pub ca: PathBuf,
}

/// A running simulator; dropping it ends it.
#[derive(Debug)]
pub struct Sim {
    ready: Ready,
    admin: Arc<Admin>,
    state: Option<PathBuf>,
    runtime: Option<Runtime>,
    _dir: Option<TempDir>,
}

impl Sim {
    /// Start a simulator; when this returns, it serves.
    ///
    /// # Errors
    /// When a port is taken, a file cannot be written, or the state file is no state.
    pub fn start(options: Options) -> io::Result<Sim> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let temporary = options
            .dir
            .is_none()
            .then(|| tempfile::Builder::new().prefix("cloud-sim").tempdir())
            .transpose()?;
        let dir = match (&options.dir, &temporary) {
            (Some(dir), _) => std::path::absolute(dir)?,
            (None, temporary) => temporary.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default(),
        };
        std::fs::create_dir_all(&dir)?;
        let authority = Authority::open(&dir, "ca", || Authority::new("aziot-cloud-sim CA"))?;
        let _inside = runtime.enter();
        let plan = Plan::new(&options, &authority)?;
        let admin_socket = bind(options.admin_port)?;
        let ready = plan.ready(&options, admin_socket.local_addr()?.port(), dir.join("ca.pem"));
        let cloud = Arc::new(Cloud::new(world(&options, &ready.hubs)?, Issuing::open(&dir)?));
        let doors: Vec<Arc<Door>> = plan.doors.iter().map(|(door, _)| door.clone()).collect();
        let admin = Arc::new(Admin { cloud: cloud.clone(), doors, authority, hosts: plan.hosts });
        for (door, socket) in plan.doors {
            runtime.spawn(serve_cloud(cloud.clone(), door, socket.listen(BACKLOG)?));
        }
        let serve = admin.clone();
        runtime.spawn(serve_plain(admin_socket.listen(BACKLOG)?, move |request| serve.answer(request)));
        if let Some(path) = options.state.clone() {
            runtime.spawn(store::keep_saved(cloud, path));
        }
        let text = serde_json::to_string_pretty(&ready)? + "\n";
        store::replace(&dir.join("ready.json"), text.as_bytes(), 0o644)?;
        drop(_inside);
        Ok(Sim { ready, admin, state: options.state, runtime: Some(runtime), _dir: temporary })
    }

    /// Where everything is.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Ask the admin interface without a socket: status and body.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request {
            method: method.to_owned(),
            target: path.to_owned(),
            body: if body.is_null() { Vec::new() } else { body.to_string().into_bytes() },
            ..Request::default()
        };
        let Reply { status, body, .. } = self.admin.answer(&request);
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if let Some(path) = &self.state
            && let Err(err) = store::save(&self.admin.cloud, path)
        {
            eprintln!("cannot save the state in {}: {err}", path.display());
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The listeners to be, with ports already taken.
struct Plan {
    hosts: Vec<String>,
    doors: Vec<(Arc<Door>, TcpSocket)>,
}

impl Plan {
    fn new(options: &Options, authority: &Authority) -> io::Result<Plan> {
        let mut hosts = options.hosts.clone();
        let bare = |name: &String| name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
        hosts.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        hosts.extend(options.hub_names.iter().map(bare));
        let mut seen = std::collections::HashSet::new();
        hosts.retain(|host| seen.insert(host.clone()));
        let mut plan = Plan { hosts, doors: Vec::new() };
        plan.open(authority, "cloud", Role::Cloud, options.port)?;
        for hub in 1..options.hubs {
            plan.open(authority, &format!("hub-{hub}"), Role::Hub(hub.into()), 0)?;
        }
        for gateway in 0..options.gateways {
            plan.open(authority, &format!("gateway-{gateway}"), Role::Gateway, 0)?;
        }
        if let Some(port) = options.est {
            plan.open(authority, "est", Role::Est, port)?;
        }
        Ok(plan)
    }

    fn open(&mut self, authority: &Authority, name: &str, role: Role, port: u16) -> io::Result<()> {
        let acceptor = acceptor(authority, &self.hosts, &TlsMode::default())?;
        let socket = bind(port)?;
        let door = Door::new(name, role, socket.local_addr()?.port(), acceptor);
        self.doors.push((Arc::new(door), socket));
        Ok(())
    }

    fn ready(&self, options: &Options, admin_port: u16, ca: PathBuf) -> Ready {
        let host = self.hosts.first().map_or("localhost", String::as_str);
        let names = |wanted: fn(Role) -> bool| {
            let doors = self.doors.iter().map(|(door, _)| door).filter(move |door| wanted(door.role));
            doors.map(move |door| format!("{host}:{}", door.port))
        };
        let mut hubs: Vec<String> = names(|role| matches!(role, Role::Cloud | Role::Hub(_))).collect();
        let dps = hubs.first().map(|authority| format!("https://{authority}")).unwrap_or_default();
        hubs.extend(options.hub_names.iter().cloned());
        let gateways = names(|role| role == Role::Gateway).collect();
        let est = names(|role| role == Role::Est).next();
        let est = est.map(|authority| format!("https://{authority}/.well-known/est"));
        let admin = format!("http://127.0.0.1:{admin_port}");
        Ready { dps, scope: options.scope.clone(), hubs, gateways, est, admin, ca }
    }
}

fn world(options: &Options, hubs: &[String]) -> io::Result<World> {
    let stored = options.state.as_deref().map(store::load).transpose()?.flatten();
    Ok(match stored {
        Some(world) => World { scope: options.scope.clone(), ..world }.renamed(hubs),
        None => World::new(&options.scope, hubs, options.seed.unwrap_or_else(|| fastrand::u64(..))),
    })
}

/// The id scope unless told otherwise.
pub const DEFAULT_SCOPE: &str = "0ne00C10D51";
