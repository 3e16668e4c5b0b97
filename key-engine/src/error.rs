//! Why a key in keyd cannot be loaded or used. Knows nothing of OpenSSL's error stack; `ffi` copies these there.

use std::ffi::CStr;

use http_common::{ClientError, chain};

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
    /// The private key was to be exported. OpenSSL tries that with every key, and goes on without.
    #[error("the private key stays in keyd and cannot be exported")]
    Stays,
    /// OpenSSL does not know the digest, or does not sign so with it.
    #[error("the digest {0:?} cannot be used for this operation")]
    Digest(String),
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
    /// This error with its causes for OpenSSL's error stack: on one line, and without its middle if it is longer than
    /// what the stack takes, which drops such texts as a whole.
    pub fn stack_text(&self) -> String {
        let text = chain(self).replace(['\n', '\0'], " ");
        if text.len() <= STACK_ROOM {
            return text;
        }
        let [begin, end] = [STACK_ROOM / 2, text.len() - STACK_ROOM / 2].map(|place| {
            let boundary = (0..=place).rev().find(|place| text.is_char_boundary(*place));
            boundary.unwrap_or_default()
        });
        format!("{} … {}", &text[..begin], &text[end..])
    }

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
            Self::Stays | Self::Digest(_) | Self::Refused(_) => 8,
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

/// Bytes of a text on OpenSSL's error stack (`ERR_MAX_DATA_SIZE` is 1024 in some versions), with room for the mark of a cut.
const STACK_ROOM: usize = 1000;

/// The reason code for a bug in this library that was stopped at the border to C.
pub(crate) const PANIC: u32 = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_for_the_stack_are_one_line_that_it_takes() {
        assert_eq!(Error::Settings("a\nb\0c".into()).stack_text().matches(['\n', '\0']).count(), 0);
        for text in ["x".repeat(3000), "é".repeat(1500), "é".repeat(1501) + "x"] {
            let shown = Error::Settings(text + ", so no").stack_text();
            assert!((990..1024).contains(&shown.len()), "{shown}");
            assert!(shown.starts_with("the provider aziot") && shown.ends_with(", so no"), "{shown}");
        }
    }
}
