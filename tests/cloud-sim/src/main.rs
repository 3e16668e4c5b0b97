//! `aziot-cloud-sim`: the command line around `cloud_sim::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_sim::cli::main()
}
