//! No leak and no error under valgrind: load, sign, copy, free, and unload. `AZIOT_ROUNDS` sets how often; the default
//! is short, because a leak of every round shows after a few as well.

use std::env;
use std::process::Command;

use suite_tests::keys::Keys;

use super::engine::{with_engine, world as engine_world};
use super::world::{KINDS, World, probe, succeed};

fn rounds(default: &str) -> String {
    env::var("AZIOT_ROUNDS").unwrap_or_else(|_| default.into())
}

/// `command` under valgrind, which makes it fail for a leak or an error.
fn watched(command: &Command) -> Command {
    let mut watched = Command::new("valgrind");
    watched.args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect"]);
    watched.args(["--errors-for-leak-kinds=definite,indirect", "--error-exitcode=9"]);
    watched.arg(command.get_program());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => watched.env(name, value),
            None => watched.env_remove(name),
        };
    }
    watched
}

#[test]
fn engine_46_48_nothing_leaks_from_the_provider() {
    let world = World::new();
    for kind in KINDS {
        let name = format!("aziot:id={kind}");
        let command = world.bare_probe();
        succeed(watched(&command).args(["loop", &name, &rounds("20")]));
        succeed(watched(&command).args(["loop", &world.reference(kind), &rounds("5")]));
        succeed(watched(&command).args(["contexts", &name]));
    }
    let command = world.command(probe());
    succeed(watched(&command).args(["ordinary"]));
    succeed(watched(&command).args(["refused", "aziot:id=absent", "no key", "30"]));
}

#[test]
fn engine_16_nothing_leaks_from_the_engine() {
    let Some(world) = engine_world() else { return };
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        let command = with_engine(&world, world.command(probe()));
        succeed(watched(&command).args(["engine-loop", &handle, &rounds("20")]));
    }
}

#[test]
fn engine_48_nothing_is_left_with_threads_after_unloading() {
    let world = World::new();
    KINDS.iter().for_each(|kind| {
        drop(succeed(world.bare_probe().args(["unloaded", &format!("aziot:id={kind}")])));
    });
}

/// The memory of a process that does the same again and again, without valgrind: after a tenth of the rounds it does
/// not grow any more.
#[test]
fn engine_46_ten_thousand_rounds() {
    let world = World::new();
    for kind in KINDS {
        let name = format!("aziot:id={kind}");
        succeed(world.bare_probe().args(["loop", &name, &rounds("1000"), "steady"]));
    }
}
