//! One conversation with a TPM: a command out, a response back, again where the TPM asks for patience. Does not know what
//! the commands are for.

use std::ffi::CString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::code::{self, ResponseCode};
use crate::command::{Command, FLUSH_CONTEXT, GET_CAPABILITY, Garbled, Response, STARTUP};
use crate::ffi::Tcti;

/// The way to a TPM.
pub trait Transport: Send {
    /// Sends the bytes of one command.
    fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode>;

    /// Waits for the response to it.
    fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode>;
}

/// Why a command brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The connection broke. Nobody knows whether the TPM has done it.
    #[error("the connection to the TPM broke during {command}")]
    Lost {
        /// The command's name.
        command: &'static str,
        /// What the TCTI says.
        #[source]
        code: ResponseCode,
    },
    /// The TPM answered something else than a response.
    #[error("the answer to {command} is no response of a TPM")]
    Garbled {
        /// The command's name.
        command: &'static str,
    },
    /// The TPM refused.
    #[error("the TPM refuses {command}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// What it says.
        #[source]
        code: ResponseCode,
    },
}

impl Failure {
    /// What the TPM says is wrong; one of the constants of `code.rs`.
    pub fn refusal(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(code.error()),
            Self::Lost { .. } | Self::Garbled { .. } => None,
        }
    }

    /// Whether the TPM refuses what it was given, and is neither busy nor broken.
    pub fn blames_input(&self) -> bool {
        self.refusal().is_some_and(|code| code & code::FORMAT_1 != 0)
    }

    /// Whether only a new connection can help.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Garbled { .. })
    }
}

/// Why there is no way to a TPM.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The TCTI's name is none.
    #[error("the TCTI string contains a zero byte")]
    BadName,
    /// tpm2-tss is not there.
    #[error("the TCTI loader of tpm2-tss cannot be loaded; its package is often called libtss2-tctildr0")]
    NoLoader(#[source] libloading::Error),
    /// The TCTI cannot be opened.
    #[error(transparent)]
    Refused(#[from] ResponseCode),
}

/// A TPM at the other end of a [`Transport`].
pub struct Connection {
    transport: Box<dyn Transport>,
    /// The most bytes that one command takes as data, once the TPM has told.
    pub(crate) input_buffer: Option<usize>,
    /// Whether nobody else uses this TPM meanwhile.
    is_exclusive: bool,
    is_managed: bool,
    /// Persistent objects that ask for a password, and how. Nobody has one, and each attempt brings the lockout of the whole
    /// TPM nearer.
    pub(crate) locked: Vec<(u32, ResponseCode)>,
}

impl Connection {
    /// A conversation with the TPM behind the TCTI `name`, in the syntax of tpm2-tss's loader; empty to try all it knows.
    pub fn open(name: &[u8]) -> Result<Self, OpenError> {
        let c_name = CString::new(name).map_err(|_| OpenError::BadName)?;
        let tcti = Tcti::open(&c_name)?;
        let access = Access::of(name, Path::new(RESOURCE_MANAGER).exists());
        let is_managed = access == Access::Managed;
        Ok(Self { is_managed, ..Self::new(Box::new(tcti), access == Access::Exclusive) })
    }

    /// A conversation over `transport`. `is_exclusive` says that all sessions in the TPM are ours.
    pub fn new(transport: Box<dyn Transport>, is_exclusive: bool) -> Self {
        Self { transport, input_buffer: None, is_exclusive, is_managed: false, locked: Vec::new() }
    }

    /// Whether a resource manager is known to be before the TPM: then what is left in it disturbs nobody, and goes when the
    /// connection does.
    pub fn is_managed(&self) -> bool {
        self.is_managed
    }

    /// Runs `command`, and reads its result with `read`.
    pub fn run<T>(
        &mut self,
        command: &Command,
        read: impl FnOnce(&mut Response) -> Result<T, Garbled>,
    ) -> Result<T, Failure> {
        let mut response = self.unlocked(command)?;
        read(&mut response).map_err(|Garbled| Failure::Garbled { command: command.kind.name })
    }

    /// Runs a `command` that has no result.
    pub fn order(&mut self, command: &Command) -> Result<(), Failure> {
        self.run(command, |_| Ok(()))
    }

    /// Removes a transient object, sequence or session.
    pub fn flush(&mut self, handle: u32) -> Result<(), Failure> {
        self.order(&Command::new(FLUSH_CONTEXT).handle(handle))
    }

    /// Runs `command`, unless what authorizes it is known to ask for a password.
    fn unlocked(&mut self, command: &Command) -> Result<Response, Failure> {
        let object = command.persistent();
        if let Some((_, code)) = self.locked.iter().find(|(locked, _)| Some(*locked) == object) {
            return Err(Failure::Refused { command: command.kind.name, code: *code });
        }
        let done = self.persist(command);
        if let (Some(object), Err(Failure::Refused { code, .. })) = (object, &done)
            && matches!(code.error(), code::AUTH_FAIL | code::BAD_AUTH)
        {
            self.locked.push((object, *code));
        }
        done
    }

    /// Runs `command` as often as the TPM asks for it.
    fn persist(&mut self, command: &Command) -> Result<Response, Failure> {
        let (mut pauses, mut started, mut swept) = (PAUSES.iter(), false, false);
        loop {
            let refused = match self.exchange(command)? {
                Ok(response) => return Ok(response),
                Err(code) => Failure::Refused { command: command.kind.name, code },
            };
            match remedy(&refused) {
                Remedy::Wait => match pauses.next() {
                    Some(pause) => thread::sleep(Duration::from_millis(*pause)),
                    None => return Err(refused),
                },
                Remedy::StartUp if !started => {
                    started = true;
                    tracing::info!("the TPM has been reset and is started");
                    let startup = Command::new(STARTUP).u16(CLEAR);
                    self.exchange(&startup)?
                        .map_err(|code| Failure::Refused { command: startup.kind.name, code })?;
                }
                Remedy::Sweep if !swept => {
                    swept = true;
                    self.sweep()?;
                }
                Remedy::StartUp | Remedy::Sweep | Remedy::None => return Err(refused),
            }
        }
    }

    /// Removes what an earlier process has left in the TPM when it was killed. Behind a resource manager there is
    /// nothing of that kind.
    fn sweep(&mut self) -> Result<(), Failure> {
        let mut strays = self.handles(FIRST_TRANSIENT)?;
        if self.is_exclusive {
            strays.extend(self.handles(FIRST_LOADED_SESSION)?);
        }
        tracing::warn!("the TPM is full; removing {} objects and sessions that nobody uses", strays.len());
        for handle in strays {
            if let Ok(Err(code)) = self.exchange(&Command::new(FLUSH_CONTEXT).handle(handle)) {
                tracing::warn!("the TPM keeps {handle:#x}: {code}");
            }
        }
        Ok(())
    }

    /// The handles of one kind that are in use.
    fn handles(&mut self, first: u32) -> Result<Vec<u32>, Failure> {
        let command = Command::new(GET_CAPABILITY).u32(HANDLES).u32(first).u32(MANY);
        let response = self.exchange(&command)?;
        let response = response.map_err(|code| Failure::Refused { command: command.kind.name, code })?;
        listed(response).map_err(|Garbled| Failure::Garbled { command: command.kind.name })
    }

    fn exchange(&mut self, command: &Command) -> Result<Result<Response, ResponseCode>, Failure> {
        let name = command.kind.name;
        let lost = |code| Failure::Lost { command: name, code };
        self.transport.send(&command.encode()).map_err(lost)?;
        let response = self.transport.receive().map_err(lost)?;
        Response::decode(command.kind, response).map_err(|Garbled| Failure::Garbled { command: name })
    }
}

/// The handles in the response to a question for them.
fn listed(mut response: Response) -> Result<Vec<u32>, Garbled> {
    let (_more, _capability, count) = (response.u8()?, response.u32()?, response.u32()?);
    (0..count.min(MANY)).map(|_| response.u32()).collect()
}

/// Who else may use a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Nobody.
    Exclusive,
    /// Others, kept apart by a resource manager.
    Managed,
    /// The name of the TCTI does not tell.
    Unknown,
}

impl Access {
    /// What the name of a TCTI says, on a machine that has the kernel's resource manager or not.
    fn of(tcti: &[u8], has_manager: bool) -> Self {
        let begins = |names: &[&str]| names.iter().any(|name| tcti.starts_with(name.as_bytes()));
        match tcti {
            // It takes the resource manager, or else the TPM itself.
            b"device" | b"device:" if has_manager => Self::Managed,
            b"device" | b"device:" => Self::Exclusive,
            _ if begins(&["tabrmd", "device:/dev/tpmrm"]) => Self::Managed,
            _ if begins(&["swtpm", "mssim", "device:/dev/tpm"]) => Self::Exclusive,
            _ => Self::Unknown,
        }
    }
}

/// What may make a refused command succeed.
enum Remedy {
    Wait,
    StartUp,
    Sweep,
    None,
}

fn remedy(refused: &Failure) -> Remedy {
    match refused.refusal() {
        Some(code::RETRY | code::YIELDED | code::TESTING | code::NV_RATE) => Remedy::Wait,
        Some(code::INITIALIZE) => Remedy::StartUp,
        Some(code::OBJECT_MEMORY | code::SESSION_MEMORY | code::SESSION_HANDLES) => Remedy::Sweep,
        _ => Remedy::None,
    }
}

/// Milliseconds before each repetition that the TPM asks for; some 13 s in all.
const PAUSES: &[u64] = &[2, 5, 10, 20, 50, 100, 200, 400, 800, 1600, 2000, 2000, 2000, 2000, 2000];
const RESOURCE_MANAGER: &str = "/dev/tpmrm0";
/// TPM_SU_CLEAR.
const CLEAR: u16 = 0;
/// TPM_CAP_HANDLES.
const HANDLES: u32 = 1;
/// More handles than a TPM has of one kind.
const MANY: u32 = 254;
const FIRST_TRANSIENT: u32 = 0x8000_0000;
/// For TPM_CAP_HANDLES, loaded sessions of any type begin here.
const FIRST_LOADED_SESSION: u32 = 0x0200_0000;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::command::{READ_PUBLIC, SIGN};

    /// A TPM that answers with these codes, one after another, and remembers the commands' numbers.
    struct Script {
        answers: VecDeque<Result<u32, u32>>,
        commands: Arc<Mutex<Vec<u16>>>,
    }

    impl Transport for Script {
        fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
            self.commands.lock().unwrap().push(u16::from_be_bytes([command[8], command[9]]));
            Ok(())
        }

        fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
            let code = self.answers.pop_front().unwrap().map_err(ResponseCode)?;
            let mut response = [&[0x80, 1, 0, 0, 0, 10], &code.to_be_bytes()[..]].concat();
            if code == 0 && self.commands.lock().unwrap().last() == Some(&0x17A) {
                // One handle, whatever is asked for.
                response.extend([0, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0, 0, 7]);
                response[5] = 23;
            }
            Ok(Zeroizing::new(response))
        }
    }

    fn run(answers: &[Result<u32, u32>]) -> (Result<(), Failure>, Vec<u16>) {
        let commands = Arc::<Mutex<_>>::default();
        let script = Script { answers: answers.to_vec().into(), commands: Arc::clone(&commands) };
        let result = Connection::new(Box::new(script), false).order(&Command::new(READ_PUBLIC).handle(1));
        let commands = commands.lock().unwrap().clone();
        (result, commands)
    }

    #[test]
    fn names_say_who_else_there_is() {
        for (name, with_manager, without) in [
            ("device", Access::Managed, Access::Exclusive),
            ("device:/dev/tpmrm0", Access::Managed, Access::Managed),
            ("device:/dev/tpm0", Access::Exclusive, Access::Exclusive),
            ("swtpm:port=2321", Access::Exclusive, Access::Exclusive),
            ("tabrmd", Access::Managed, Access::Managed),
            ("", Access::Unknown, Access::Unknown),
        ] {
            assert_eq!(Access::of(name.as_bytes(), true), with_manager, "{name}");
            assert_eq!(Access::of(name.as_bytes(), false), without, "{name}");
        }
    }

    #[test]
    fn a_busy_tpm_is_asked_again() {
        let (result, commands) = run(&[Ok(0x922), Ok(0x908), Ok(0x90A), Ok(0x920), Ok(0xB0922), Ok(0)]);
        assert!(result.is_ok());
        assert_eq!(commands, [0x173; 6]);
    }

    #[test]
    fn a_reset_tpm_is_started_once() {
        let (result, commands) = run(&[Ok(0x100), Ok(0), Ok(0)]);
        assert!(result.is_ok());
        assert_eq!(commands, [0x173, 0x144, 0x173]);
        let (result, _) = run(&[Ok(0x100), Ok(0), Ok(0x100)]);
        assert_eq!(result.unwrap_err().refusal(), Some(0x100));
    }

    #[test]
    fn a_full_tpm_is_swept_once() {
        let (result, commands) = run(&[Ok(0x902), Ok(0), Ok(0), Ok(0)]);
        assert!(result.is_ok());
        assert_eq!(commands, [0x173, 0x17A, 0x165, 0x173]);
        let (result, _) = run(&[Ok(0x902), Ok(0), Ok(0x922), Ok(0x902)]);
        assert_eq!(result.unwrap_err().refusal(), Some(0x902));
    }

    /// A few attempts more would lock the TPM, for everybody.
    #[test]
    fn a_persistent_object_that_asks_for_a_password_is_asked_once() {
        let commands = Arc::<Mutex<_>>::default();
        let answers = [0x98E, 0x98E, 0x98E, 0, 0].map(Ok).into();
        let mut connection =
            Connection::new(Box::new(Script { answers, commands: Arc::clone(&commands) }), false);
        let sign = |handle| Command::new(SIGN).handle(handle).password(&[]);
        let mut refusal = |handle| connection.order(&sign(handle)).map_err(|failure| failure.refusal());
        for (handle, asked) in [(0x8100_0001, 1), (0x8100_0001, 1), (0x8000_0001, 2), (0x8000_0001, 3)] {
            assert_eq!(refusal(handle), Err(Some(code::AUTH_FAIL)));
            assert_eq!(commands.lock().unwrap().len(), asked, "{handle:#x}");
        }
        connection.evict_control(0x8000_0001, 0x8100_0001, &[]).unwrap();
        connection.order(&sign(0x8100_0001)).unwrap();
    }

    #[test]
    fn refusals_and_broken_connections_are_told_apart() {
        let (result, commands) = run(&[Ok(0x18B)]);
        let failure = result.unwrap_err();
        assert_eq!((failure.refusal(), failure.is_lost(), commands.len()), (Some(0x08B), false, 1));
        assert!(failure.blames_input());
        for busy in [0x101, 0x921] {
            assert!(!run(&[Ok(busy)]).0.unwrap_err().blames_input(), "{busy:#x}");
        }
        let failure = run(&[Err(0xA000A)]).0.unwrap_err();
        assert!(failure.is_lost() && !failure.blames_input());
        assert_eq!(
            http_common::chain(&failure),
            "the connection to the TPM broke during TPM2_ReadPublic: input/output error of the TCTI (0xA000A)"
        );
    }
}
