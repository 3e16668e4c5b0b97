//! Commands and responses as bytes (TPM 2.0 Library, part 1, 18, and part 3). Knows the frame around them and the forms
//! of their parts; what a command is for is its sender's matter.

use zeroize::Zeroizing;

use crate::code::ResponseCode;

/// A command's number and shape.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name in the TPM's documents.
    pub name: &'static str,
    number: u32,
    gives_handle: bool,
}

macro_rules! kinds {
    ($($constant:ident = $name:literal $number:literal $gives_handle:literal;)*) => {$(
        #[doc = $name]
        pub const $constant: Kind = Kind { name: $name, number: $number, gives_handle: $gives_handle };
    )*};
}

// Part 2, 6.5.2; whether the response begins with a handle, from part 3.
kinds! {
    EVICT_CONTROL = "TPM2_EvictControl" 0x120 false;
    CREATE_PRIMARY = "TPM2_CreatePrimary" 0x131 true;
    SEQUENCE_COMPLETE = "TPM2_SequenceComplete" 0x13E false;
    STARTUP = "TPM2_Startup" 0x144 false;
    ACTIVATE_CREDENTIAL = "TPM2_ActivateCredential" 0x147 false;
    POLICY_SECRET = "TPM2_PolicySecret" 0x151 false;
    CREATE = "TPM2_Create" 0x153 false;
    HMAC = "TPM2_HMAC" 0x155 false;
    IMPORT = "TPM2_Import" 0x156 false;
    LOAD = "TPM2_Load" 0x157 true;
    RSA_DECRYPT = "TPM2_RSA_Decrypt" 0x159 false;
    HMAC_START = "TPM2_HMAC_Start" 0x15B true;
    SEQUENCE_UPDATE = "TPM2_SequenceUpdate" 0x15C false;
    SIGN = "TPM2_Sign" 0x15D false;
    FLUSH_CONTEXT = "TPM2_FlushContext" 0x165 false;
    READ_PUBLIC = "TPM2_ReadPublic" 0x173 false;
    START_AUTH_SESSION = "TPM2_StartAuthSession" 0x176 true;
    GET_CAPABILITY = "TPM2_GetCapability" 0x17A false;
}

/// A command in the making: handles, then authorizations, then parameters.
pub struct Command {
    pub(crate) kind: Kind,
    handles: Vec<u8>,
    authorizations: Zeroizing<Vec<u8>>,
    parameters: Zeroizing<Vec<u8>>,
}

impl Command {
    /// Neither handles nor parameters yet.
    pub fn new(kind: Kind) -> Self {
        // Large enough never to move: what moves leaves copies of secrets behind.
        let room = |bytes| Zeroizing::new(Vec::with_capacity(bytes));
        Self { kind, handles: Vec::new(), authorizations: room(256), parameters: room(LARGEST) }
    }

    /// The next handle.
    pub fn handle(mut self, handle: u32) -> Self {
        self.handles.extend(handle.to_be_bytes());
        self
    }

    /// Authorizes the next handle that needs it by its value.
    pub fn password(self, value: &[u8]) -> Self {
        self.authorization(PASSWORD_SESSION, value)
    }

    /// Authorizes the next handle that needs it by a policy session, which stays open.
    pub fn policy(self, session: u32) -> Self {
        self.authorization(session, &[])
    }

    fn authorization(mut self, session: u32, value: &[u8]) -> Self {
        self.authorizations.extend(session.to_be_bytes());
        self.authorizations.extend(0_u16.to_be_bytes()); // no nonce: neither kind of session computes an HMAC
        self.authorizations.push(CONTINUE_SESSION);
        sized(&mut self.authorizations, value);
        self
    }

    /// A parameter in its final form.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend(bytes);
        self
    }

    /// An integer of 16 bits.
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// An integer of 32 bits.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A `TPM2B`: length and bytes. There are at most 65535.
    pub fn sized(mut self, bytes: &[u8]) -> Self {
        sized(&mut self.parameters, bytes);
        self
    }

    /// The persistent object that authorizes it, by its value or a policy.
    pub(crate) fn persistent(&self) -> Option<u32> {
        let first = self.handles.first_chunk().map(|handle| u32::from_be_bytes(*handle));
        first.filter(|handle| handle >> 24 == PERSISTENT && !self.authorizations.is_empty())
    }

    /// The bytes for the TPM.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let with_sessions = !self.authorizations.is_empty();
        let area = if with_sessions { 4 + self.authorizations.len() } else { 0 };
        let size = HEADER + self.handles.len() + area + self.parameters.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        let tag = if with_sessions { TAG_SESSIONS } else { TAG_NO_SESSIONS };
        bytes.extend(tag.to_be_bytes());
        bytes.extend(length::<u32>(size).to_be_bytes());
        bytes.extend(self.kind.number.to_be_bytes());
        bytes.extend(&self.handles);
        if with_sessions {
            bytes.extend(length::<u32>(self.authorizations.len()).to_be_bytes());
            bytes.extend(&*self.authorizations);
        }
        bytes.extend(&*self.parameters);
        bytes
    }
}

/// What a successful command returned: perhaps a handle, and parameters to be read one after another.
pub struct Response {
    bytes: Zeroizing<Vec<u8>>,
    handle: Option<u32>,
    at: usize,
    end: usize,
}

/// A response that is not what the TPM's documents promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled;

impl Response {
    /// Takes a response apart; `Ok(Err(code))` if the TPM refused.
    pub(crate) fn decode(
        kind: Kind,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Result<Result<Self, ResponseCode>, Garbled> {
        let end = bytes.len();
        let mut response = Self { bytes, handle: None, at: 0, end };
        let (tag, size, code) = (response.u16()?, response.u32()?, response.u32()?);
        if usize::try_from(size) != Ok(end) {
            return Err(Garbled);
        }
        if let Err(code) = ResponseCode(code).ok() {
            return Ok(Err(code));
        }
        if kind.gives_handle {
            response.handle = Some(response.u32()?);
        }
        if tag == TAG_SESSIONS {
            let length = usize::try_from(response.u32()?).map_err(|_| Garbled)?;
            response.end =
                response.at.checked_add(length).filter(|end| *end <= response.end).ok_or(Garbled)?;
        }
        Ok(Ok(response))
    }

    /// The handle of what was made.
    pub fn handle(&self) -> Result<u32, Garbled> {
        self.handle.ok_or(Garbled)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Garbled> {
        self.take::<1>().map(u8::from_be_bytes)
    }

    /// The next integer of 16 bits.
    pub fn u16(&mut self) -> Result<u16, Garbled> {
        self.take().map(u16::from_be_bytes)
    }

    /// The next integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32, Garbled> {
        self.take().map(u32::from_be_bytes)
    }

    /// The bytes of a `TPM2B`, without its length.
    pub fn sized(&mut self) -> Result<Zeroizing<Vec<u8>>, Garbled> {
        let length = usize::from(self.u16()?);
        self.bytes(length).map(|bytes| Zeroizing::new(bytes.to_vec()))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        self.bytes(N)?.try_into().map_err(|_| Garbled)
    }

    fn bytes(&mut self, count: usize) -> Result<&[u8], Garbled> {
        let (from, to) = (self.at, self.at + count);
        let bytes = self.bytes.get(from..to).filter(|_| to <= self.end).ok_or(Garbled)?;
        self.at = to;
        Ok(bytes)
    }
}

/// Appends a `TPM2B`: length and bytes. There are at most 65535.
pub fn sized(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(length::<u16>(bytes.len()).to_be_bytes());
    to.extend(bytes);
}

fn length<T: TryFrom<usize>>(length: usize) -> T {
    T::try_from(length).ok().expect("parts of commands are checked to be short")
}

const HEADER: usize = 10;
const TAG_NO_SESSIONS: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: not a session, but a value in its place.
const PASSWORD_SESSION: u32 = 0x4000_0009;
const CONTINUE_SESSION: u8 = 1;
/// The first byte of persistent handles (part 2, 7.2).
const PERSISTENT: u32 = 0x81;
/// The largest command that is made here, in bytes.
const LARGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn response(bytes: &[u8]) -> Result<Result<Response, ResponseCode>, Garbled> {
        Response::decode(LOAD, Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn a_command_without_authorization() {
        let command = Command::new(READ_PUBLIC).handle(0x8101_0001);
        let expected = [0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x73, 0x81, 1, 0, 1];
        assert_eq!(*command.encode(), expected);
    }

    #[test]
    fn a_command_with_authorization() {
        let command = Command::new(HMAC).handle(7).password(b"pw").sized(b"abc").u16(0xB);
        let head = [0x80, 2, 0, 0, 0, 36, 0, 0, 1, 0x55, 0, 0, 0, 7];
        let authorization = [0, 0, 0, 11, 0x40, 0, 0, 9, 0, 0, 1, 0, 2, b'p', b'w'];
        let parameters = [0, 3, b'a', b'b', b'c', 0, 0xB];
        assert_eq!(*command.encode(), [&head[..], &authorization, &parameters].concat());
    }

    #[test]
    fn a_response_with_a_handle() {
        let bytes = [0x80, 2, 0, 0, 0, 24, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 3, 0, 1, 9, 0xEE, 0xEE, 0xEE];
        let mut loaded = response(&bytes).unwrap().unwrap();
        assert_eq!((loaded.handle(), loaded.sized().unwrap().to_vec()), (Ok(0x8000_0001), vec![9]));
        assert_eq!(loaded.u8(), Err(Garbled), "authorizations are no parameters");
    }

    #[test]
    fn refusals_and_garbage() {
        let refused = response(&[0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x8B]).unwrap();
        assert_eq!(refused.err(), Some(ResponseCode(0x18B)));
        for garbage in [
            &[][..],
            &[0x80],
            &[0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0],
            &[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0],
            &[0x80, 2, 0, 0, 0, 18, 0, 0, 0, 0, 0x80, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            assert!(response(garbage).is_err(), "{garbage:?}");
        }
    }
}
