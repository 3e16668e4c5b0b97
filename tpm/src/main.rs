//! The executable `aziot-tpmd`: the daemon's start, or with `--show-ek` what the operator needs to enrol this device.

use std::process::ExitCode;

fn main() -> ExitCode {
    tpmd::quiet_library();
    match std::env::args_os().nth(1) {
        Some(argument) if argument == "--show-ek" => tpmd::show_ek(),
        _ => http_common::daemon::run::<tpmd::Tpmd>(),
    }
}
