//! The executable `aziot-certd`: nothing but the daemon's start.

use std::process::ExitCode;

fn main() -> ExitCode {
    http_common::daemon::run::<certd::Certd>()
}
