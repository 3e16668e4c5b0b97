//! Why a key in keyd cannot be loaded or used. Knows nothing of OpenSSL's error stack; `ffi` copies these there.

use std::ffi::CStr;

use http_common::ClientError;

/// Why a key in keyd cannot be loaded or used. No variant prints a key handle: whoever reads it could use the key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// keyd cannot be reached, does not answer in time, refuses or answers nonsense.
    #[error("keyd cannot {operation} {key}{}", status(source))]
    Keyd {
        /// What was asked of keyd.
        operation: &'static str,
        /// Which key, as far as it has a name.
        key: String,
        /// What happened.
        #[source]
        source: ClientError,
    },
    /// keyd describes the public part of the key in a way that this library does not know.
    #[error("keyd reports {what} for {key}, which this library cannot use")]
    Unsupported {
        /// What was reported.
        what: String,
        /// Which key.
        key: String,
    },
    /// The text is not a URI of a key.
    #[error("not a key URI: {0}; use aziot:id=KEY-ID or aziot:handle=KEY-HANDLE")]
    BadUri(&'static str),
    /// The bytes are not a key reference.
    #[error("not an Azure IoT Keys Service key reference: {0}; write one with aziot-key-ref")]
    BadReference(&'static str),
    /// The operation is impossible with this key or these parameters.
    #[error("{0}")]
    Refused(&'static str),
    /// The socket of keyd is not named by a `unix:` URI or an absolute path.
    #[error(
        "the socket {0:?} of keyd is neither an absolute path nor a URI such as unix:///run/aziot/keyd.sock"
    )]
    BadSocket(String),
    /// The settings in `openssl.cnf` or in the environment cannot be used.
    #[error("the provider aziot has unusable settings: {0}")]
    Settings(String),
    /// OpenSSL itself fails; its own entries on the error stack say why.
    #[error("OpenSSL cannot {0}")]
    OpenSsl(&'static str),
}

impl Error {
    /// The reason code on OpenSSL's error stack; [`REASONS`] has a text for each.
    pub fn reason(&self) -> u32 {
        match self {
            Self::Keyd { source, .. } => match source {
                ClientError::Unreachable { .. } => 1,
                ClientError::TimedOut { .. } => 2,
                ClientError::Refused { .. } => 3,
                ClientError::BadReply { .. } => 4,
            },
            Self::Unsupported { .. } => 5,
            Self::BadUri(_) => 6,
            Self::BadReference(_) => 7,
            Self::Refused(_) => 8,
            Self::BadSocket(_) | Self::Settings(_) => 9,
            Self::OpenSsl(_) => 10,
        }
    }
}

/// The HTTP status of a refusal, for whoever compares with the API or with keyd's log.
fn status(source: &ClientError) -> String {
    source.status().map_or_else(String::new, |status| format!(" (status {})", status.as_u16()))
}

/// The texts of the reason codes.
pub const REASONS: [(u32, &CStr); 11] = [
    (1, c"keyd cannot be reached"),
    (2, c"keyd did not answer in time"),
    (3, c"keyd refuses"),
    (4, c"keyd answered something unreadable"),
    (5, c"unsupported kind of key"),
    (6, c"bad key URI"),
    (7, c"bad key reference"),
    (8, c"operation refused"),
    (9, c"bad settings"),
    (10, c"OpenSSL failed"),
    (PANIC, c"internal error"),
];

/// The reason code for a bug in this library that was stopped at the border to C.
pub(crate) const PANIC: u32 = 11;
