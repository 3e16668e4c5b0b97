//! The program `aziot-identityd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    http_common::daemon::run::<identityd::Identityd>()
}
