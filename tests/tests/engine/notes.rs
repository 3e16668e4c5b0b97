//! What the provider notes for who looks for a fault, and that nobody is disturbed by it.

use std::fs;
use std::process::{Command, Stdio};

use super::world::{World, probe, succeed};

#[test]
fn failures_are_noted_where_the_configuration_says() {
    let world = World::new();
    let log = world.path("debug.log");
    let configuration = world.configuration("debug", &format!("{log}\nsocket = {}", world.socket_uri()));
    world.write("openssl.cnf", configuration);
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=ec-p256");
    world.openssl_fails("pkey -in {} -pubout -noout", "aziot:id=absent");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("loaded the key \"ec-p256\"") && log.contains("there is no key"), "{log}");
}

#[test]
fn a_reader_that_is_away_neither_ends_a_program_nor_holds_it_up() {
    let world = World::new();
    let fifo = world.path("debug.fifo");
    succeed(Command::new("mkfifo").arg(&fifo));
    let file = world.path("debug.file");
    for target in [fifo.as_str(), "stderr", file.as_str()] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = world.command("timeout");
        program.args(["120"]).arg(probe()).args(["refused", "aziot:id=absent", "no key", "60"]);
        program.env("AZIOT_PROVIDER_DEBUG", target).stdout(Stdio::null()).stderr(writer);
        assert!(program.status().unwrap().success(), "{target}");
    }
    let log = fs::read_to_string(file).unwrap();
    assert!(log.contains("there is no key"), "{log}");
}
