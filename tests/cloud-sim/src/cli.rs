//! The command line: serve until a signal, or ask a running simulator to enrol a device.

use crate::{DEFAULT_SCOPE, Options, Sim, keys::Key};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// Azure's Device Provisioning Service and IoT Hub on loopback TLS, for tests of devices and their agents.
///
/// Without a subcommand it serves until SIGTERM or SIGINT. When it is ready, it prints one line of JSON that says
/// where everything is, and writes the same to DIR/ready.json. GET / of the admin URL lists what can be asked.
#[derive(Debug, Parser)]
#[command(name = "aziot-cloud-sim", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Port of DPS and of the first hub on 127.0.0.1; 0 for any
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port of the plain HTTP admin listener on 127.0.0.1; 0 for any
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Where ca.pem, ca-key.pem and ready.json go; an existing CA is used again [default: a temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep enrolments, registrations, devices, modules and settings in this file over restarts
    #[arg(long)]
    state: Option<PathBuf>,
    /// Make ids, etags, generation ids and keys repeat from run to run
    #[arg(long)]
    seed: Option<u64>,
    /// The id scope of DPS
    #[arg(long, default_value = DEFAULT_SCOPE)]
    scope: String,
    /// Host names besides localhost and 127.0.0.1; the first is used in the URLs and hub names (repeatable)
    #[arg(long = "host")]
    hosts: Vec<String>,
    /// Number of hubs with a port each; the first shares that of DPS
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    hubs: u16,
    /// A further hub on the same ports, chosen by the host name that requests carry (repeatable)
    #[arg(long = "hub")]
    hub_names: Vec<String>,
    /// Number of parent gateways with a port each: they serve every hub, by the token's audience
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    gateways: u16,
    /// Serve EST, too, on this port; on any without one
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    est: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrol a device at a running simulator and print its primary key in base64
    Enroll(EnrollArgs),
    /// Print the key that a group's key gives to a registration id, in base64
    DeriveKey {
        /// The group's key in base64
        #[arg(long)]
        key: String,
        /// The registration id, as the device will send it
        #[arg(long)]
        registration_id: String,
    },
}

#[derive(Debug, Args)]
struct EnrollArgs {
    /// The admin URL, as in ready.json
    #[arg(long)]
    admin: String,
    /// The registration id
    #[arg(long)]
    registration_id: String,
    /// The device's name at the hub, if it is to differ
    #[arg(long, conflicts_with = "group")]
    device_id: Option<String>,
    /// Enrol through this group, which is made if it does not exist
    #[arg(long)]
    group: Option<String>,
    /// The hub's name, as in ready.json, instead of any
    #[arg(long)]
    hub: Option<String>,
}

/// Run the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve(cli.serve),
        Some(Command::Enroll(args)) => enroll(&args),
        Some(Command::DeriveKey { key, registration_id }) => derive(&key, &registration_id),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("aziot-cloud-sim: {err}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> io::Result<()> {
    let ServeArgs { port, admin_port, dir, state, seed, scope, hosts, hubs, hub_names, gateways, est } = args;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let sim = Sim::start(Options {
        port,
        admin_port,
        dir,
        state,
        seed,
        scope,
        hosts,
        hubs,
        hub_names,
        gateways,
        est,
    })?;
    let mut out = io::stdout();
    writeln!(out, "{}", serde_json::to_string(sim.ready())?)?;
    out.flush()?;
    runtime.block_on(async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    });
    Ok(())
}

fn derive(key: &str, registration_id: &str) -> io::Result<()> {
    let key = Key::try_from(key.to_owned()).map_err(io_error)?;
    writeln!(io::stdout(), "{}", key.derive(registration_id).to_base64())
}

fn enroll(args: &EnrollArgs) -> io::Result<()> {
    let attestation = json!({"type": "symmetricKey"});
    let mut enrollment = json!({"attestation": attestation});
    if let Some(hub) = &args.hub {
        enrollment["iotHubs"] = json!([hub]);
    }
    let key = match &args.group {
        None => {
            if let Some(device_id) = &args.device_id {
                enrollment["deviceId"] = device_id.as_str().into();
            }
            let path = format!("/enrollments/{}", encode(&args.registration_id));
            ask(&args.admin, "PUT", &path, &enrollment)?["attestation"]["symmetricKey"]["primaryKey"].take()
        }
        Some(group) => {
            let path = format!("/enrollmentGroups/{}", encode(group));
            if ask(&args.admin, "GET", &path, &Value::Null).is_err() {
                ask(&args.admin, "PUT", &path, &enrollment)?;
            }
            let path = format!("{path}/keys/{}", encode(&args.registration_id));
            ask(&args.admin, "GET", &path, &Value::Null)?["primaryKey"].take()
        }
    };
    writeln!(io::stdout(), "{}", key.as_str().unwrap_or_default())
}

/// One request to the admin interface of a running simulator.
fn ask(admin: &str, method: &str, path: &str, body: &Value) -> io::Result<Value> {
    let host = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(body),
        _ => Err(io_error(format!("{method} {path}: {}", body["error"].as_str().unwrap_or(head)))),
    }
}

fn encode(segment: &str) -> String {
    percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn io_error(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
