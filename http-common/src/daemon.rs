//! What all daemons do alike: config → state → socket → reload → drain. Knows no service.

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use config_common::{ConfigPaths, Endpoint, Loaded, Service, Watch};
use sd_notify::NotifyState;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::listener::{ListenError, listen, place};
use crate::server::Server;
use crate::stop::Stop;
use crate::{ApiVersion, Handlers, Router, chain, log};

/// A daemon: a configuration, a state made of it, and its endpoints.
pub trait Daemon: Handlers + Sized {
    /// Which of the suite's services it is.
    const SERVICE: Service;
    /// Version for `--version` and the log.
    const VERSION: &'static str;
    /// Threads that run handlers; 0 for the main thread alone.
    const WORKERS: usize;
    /// What the program knows besides what every daemon does, with what it does: options and lines of the help.
    const MORE_OPTIONS: &'static [(&'static str, &'static str)] = &[];
    /// The configuration file's type.
    type Config: DeserializeOwned + Send + 'static;

    /// The settings that every daemon has.
    fn common(config: &Self::Config) -> Common;

    /// What is wrong with a configuration that reads well; `--check-config` and a reload ask only this.
    fn check(config: &Self::Config) -> Result<(), Self::Error>;

    /// Tells in the log what is accepted and was perhaps not meant, as a start does; `--check-config` asks this too.
    fn warn(config: &Self::Config) {
        let _ = config;
    }

    /// Makes the state. What takes long or needs others goes on in tasks: the socket is served right after.
    fn start(config: Self::Config) -> impl Future<Output = Result<Arc<Self>, Self::Error>> + Send;

    /// The service's endpoints.
    fn router() -> Router<Self>;

    /// What forbids to take up a checked `config` while we run, though a start with it is none's harm.
    fn check_change(&self, config: &Self::Config) -> Result<(), Self::Error> {
        let _ = config;
        Ok(())
    }

    /// Takes up the parts of a checked `config` that may change while we run.
    fn reload(self: &Arc<Self>, config: Self::Config) -> impl Future<Output = ()> + Send;
}

/// The settings that every daemon has.
#[derive(Debug, Clone)]
pub struct Common {
    /// Requests of one uid in work at a time.
    pub max_requests: usize,
    /// Where the socket is, unless systemd hands one over.
    pub endpoint: Endpoint,
    /// Log level in the syntax of `AZIOT_LOG`.
    pub log_level: Option<String>,
    /// The version of a request that names none; without it such a request is refused.
    pub assumed_version: Option<ApiVersion>,
}

/// The `main` of a daemon.
pub fn run<D: Daemon>() -> ExitCode {
    let mut check_only = false;
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--version" | "-V") => {
                print(&format!("{} {}", D::SERVICE.binary(), D::VERSION));
                return ExitCode::SUCCESS;
            }
            Some("--help" | "-h") => {
                print(&help::<D>());
                return ExitCode::SUCCESS;
            }
            Some("--check-config") => check_only = true,
            // Upstream's daemons ignore whatever they are given; a unit file may rely on it.
            _ => log::note(format_args!(
                "{}: the argument {argument:?} is not known and ignored; see --help",
                D::SERVICE.binary()
            )),
        }
    }
    log::init();
    keep_memory_private();
    match load_and_run::<D>(check_only) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{} cannot start: {}", D::SERVICE.binary(), chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
enum StartError<E: std::error::Error + 'static> {
    #[error("the configuration cannot be read")]
    Config(#[source] config_common::Error),
    #[error("the configuration is refused")]
    Refused(#[source] E),
    #[error("no state")]
    State(#[source] E),
    #[error("no socket")]
    Socket(#[source] ListenError),
    #[error("the operating system refuses a {what}")]
    System {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

fn load_and_run<D: Daemon>(check_only: bool) -> Result<(), StartError<D::Error>> {
    let paths = ConfigPaths::from_env(D::SERVICE);
    // Begins before the files are read, so that no change falls between.
    let (changed, mut changes) = mpsc::channel(1);
    let _watch = (!check_only).then(|| {
        Watch::start(&paths.file, &paths.directory, move || {
            // A change that is already announced covers this one.
            let _ = changed.try_send(());
        })
    });
    let config = read::<D>(&paths).map_err(StartError::Config)?;
    D::check(&config).map_err(StartError::Refused)?;
    if check_only {
        if let Some(level) = D::common(&config).log_level {
            log::check_level(&level);
        }
        D::warn(&config);
        print(&format!("{}: the configuration is good", D::SERVICE.binary()));
        return Ok(());
    }
    let common = D::common(&config);
    log::set_level(common.log_level.as_deref());
    let max_connections = raise_descriptor_limit();
    let system = |what| move |source| StartError::System { what, source };
    let runtime = runtime(D::WORKERS).map_err(system("runtime"))?;
    // Before there is a socket: who sees it may send a signal, which must not end us in disorder.
    let mut signals = {
        let _runtime = runtime.enter();
        Signals::new().map_err(system("signal handler"))?
    };
    // Bound before another thread makes files, see listen; clients wait in its queue until the state is made.
    let listener = listen(common.endpoint.path()).map_err(StartError::Socket)?;
    let place = place(&listener);
    let stopped = runtime.block_on(async {
        listener.set_nonblocking(true).map_err(system("non-blocking socket"))?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(system("socket"))?;
        let state = D::start(config).await.map_err(StartError::State)?;
        let (stop, stopping) = watch::channel(Stop::No);
        let server = Server::new(
            Arc::clone(&state),
            D::router().assuming(common.assumed_version),
            common.max_requests,
            max_connections,
        );
        let serving = tokio::spawn(server.run(listener, stopping));
        tracing::info!("{} {} serves {place}", D::SERVICE.binary(), D::VERSION);
        notify(&[NotifyState::Ready]);
        supervise::<D>(&paths, &state, &mut signals, &mut changes).await;
        notify(&[NotifyState::Stopping]);
        drain(serving, &stop, &mut signals).await;
        Ok(())
    });
    // A worker may hang in a token; it must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    stopped
}

/// Reloads on a change of the files or SIGHUP, until SIGTERM or SIGINT.
async fn supervise<D: Daemon>(
    paths: &ConfigPaths,
    state: &Arc<D>,
    signals: &mut Signals,
    changes: &mut mpsc::Receiver<()>,
) {
    loop {
        tokio::select! {
            () = told(&mut signals.stop) => return,
            _ = signals.hangup.recv() => {}
            Some(()) = changes.recv() => {}
        }
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Ready)]);
        reload::<D>(paths, state).await;
        notify(&[NotifyState::Ready]);
    }
}

/// Lets the server end: when the accepted requests are done, or at the next signal.
async fn drain(mut serving: JoinHandle<()>, stop: &watch::Sender<Stop>, signals: &mut Signals) {
    stop.send_replace(Stop::Drain);
    tokio::select! {
        // A panic of the accept loop is all that this could report, and the log has it.
        _ = &mut serving => {}
        () = told(&mut signals.stop) => {
            tracing::warn!("told to stop once more: the requests that are not done are given up");
            stop.send_replace(Stop::Now);
            let _ = serving.await;
        }
    }
}

/// Reads and checks everything first; what does not pass changes nothing.
async fn reload<D: Daemon>(paths: &ConfigPaths, state: &Arc<D>) {
    let again = paths.clone();
    let read = tokio::task::spawn_blocking(move || {
        let config = read::<D>(&again).map_err(StartError::Config)?;
        D::check(&config).map_err(StartError::Refused)?;
        Ok(config)
    });
    let read: Result<D::Config, StartError<D::Error>> =
        read.await.expect("reading a configuration does not panic");
    let checked = read.and_then(|config| match state.check_change(&config) {
        Ok(()) => Ok(config),
        Err(error) => Err(StartError::Refused(error)),
    });
    match checked {
        Ok(config) => {
            log::set_level(D::common(&config).log_level.as_deref());
            state.reload(config).await;
            tracing::info!("the changed configuration is in force");
        }
        Err(error) => {
            tracing::warn!("the changed configuration is not taken, the old one stays: {}", chain(&error));
        }
    }
}

fn read<D: Daemon>(paths: &ConfigPaths) -> Result<D::Config, config_common::Error> {
    let Loaded { config, warnings } = paths.read::<D::Config>()?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

fn runtime(workers: usize) -> std::io::Result<Runtime> {
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.enable_all().worker_threads(workers.max(1)).max_blocking_threads(BLOCKING_THREADS);
    builder.thread_stack_size(STACK).build()
}

struct Signals {
    /// SIGTERM and SIGINT.
    stop: [Signal; 2],
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Returns when one of the signals to stop has come.
async fn told([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// No core dump and no debugger of the same user gets to see the keys in memory.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let private =
        setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = private {
        tracing::warn!("the system does not keep this process's memory private: {error}");
    }
}

/// Takes as many descriptors as the system grants and tells how many connections they are good for.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => limit.current.unwrap_or(wanted),
    };
    usize::try_from(granted.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(0).max(MIN_CONNECTIONS)
}

/// Tells systemd, if it asked to be told.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd does not take the notification: {error}");
    }
}

/// Tells systemd (`systemctl status`) how things stand, in one line.
pub fn notify_status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Prints a line. Who does not want to read it has closed the pipe, which is no fault.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn help<D: Daemon>() -> String {
    let paths = ConfigPaths::from_env(D::SERVICE);
    let options = || D::MORE_OPTIONS.iter().chain(&OPTIONS);
    let names: Vec<_> = options().map(|(name, _)| *name).collect();
    let lines: String = options().map(|(name, what)| format!("  {name:<14}  {what}\n")).collect();
    format!(
        "{name} {version}: a daemon of the device identity suite

Usage: {name} [{names}]

{lines}
Configuration: {file}, then the *.toml files of {directory} in the order of their names
({variables} name other places). Changes are taken up within two seconds, or on SIGHUP.
AZIOT_LOG (or log_level in the configuration) sets the log level: off, error, warn, info, debug, trace.",
        name = D::SERVICE.binary(),
        version = D::VERSION,
        names = names.join(" | "),
        file = paths.file.display(),
        directory = paths.directory.display(),
        variables =
            format_args!("{} and {}", D::SERVICE.config_variable(), D::SERVICE.config_directory_variable()),
    )
}

/// Options of every daemon.
const OPTIONS: [(&str, &str); 3] = [
    (
        "--check-config",
        "read the configuration, say what is wrong with it, and end (status 1 if it is refused); whether the files,
                  tokens and TPMs that it names can be used, only a start shows",
    ),
    ("--version", "print the version"),
    ("--help", "print this text"),
];
/// Threads for work that blocks: files, RSA, tokens.
const BLOCKING_THREADS: usize = 8;
/// Stack of a worker, in bytes.
const STACK: usize = 1 << 20;
/// Descriptors that are asked for at most.
const MAX_DESCRIPTORS: u64 = 16_384 + OWN_DESCRIPTORS;
/// Descriptors kept for files, the cloud and other services.
const OWN_DESCRIPTORS: u64 = 40;
/// Connections that are tried for, however few descriptors there are.
const MIN_CONNECTIONS: usize = 8;
