//! The executable `aziot-keyd`: nothing but the daemon's start.

use std::process::ExitCode;

fn main() -> ExitCode {
    tpm_device::quiet_library();
    http_common::daemon::run::<keyd::Keyd>()
}
