//! Key handles: minted and opened. A handle is text with a MAC that says "keyd once let somebody use this key"
//! (spec keys-service, chapter 6). Knows neither where the validation key comes from nor what a key is.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use key_api::KeyHandle;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::id::{KeyId, Permit};
use crate::store::SymmetricKey;

/// What a genuine handle stands for, with the right to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A symmetric key.
    Key(Permit),
    /// A key pair.
    KeyPair(Permit),
    /// HMAC-SHA256 of `data` under the key `base` (chapter 8).
    Derived {
        /// The key that is derived from.
        base: Permit,
        /// What is derived.
        data: Vec<u8>,
    },
}

impl Opened {
    /// The key in a store that this is about; for a derived key its base.
    pub fn permit(&self) -> &Permit {
        match self {
            Self::Key(permit) | Self::KeyPair(permit) | Self::Derived { base: permit, .. } => permit,
        }
    }

    /// The permit for a symmetric key; refused for other kinds.
    pub fn into_key(self) -> Result<Permit, Error> {
        match self {
            Self::Key(permit) => Ok(permit),
            other => Err(Error::WrongHandle { needed: "a key", given: other.kind() }),
        }
    }

    /// The permit for a key pair; refused for other kinds.
    pub fn into_key_pair(self) -> Result<Permit, Error> {
        match self {
            Self::KeyPair(permit) => Ok(permit),
            other => Err(Error::WrongHandle { needed: "a key pair", given: other.kind() }),
        }
    }

    /// Base and data of a derived key; refused for other kinds.
    pub fn into_derived(self) -> Result<(Permit, Vec<u8>), Error> {
        match self {
            Self::Derived { base, data } => Ok((base, data)),
            other => Err(Error::WrongHandle { needed: "a derived key", given: other.kind() }),
        }
    }

    /// The kind in words, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "a key",
            Self::KeyPair(_) => "a key pair",
            Self::Derived { .. } => "a derived key",
        }
    }
}

/// What a new handle shall stand for.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A symmetric key.
    Key(&'a Permit),
    /// A key pair.
    KeyPair(&'a Permit),
    /// A key derived from the key of the handle `base`, which must have been opened and not be derived itself.
    Derived {
        /// The handle of the base key.
        base: &'a KeyHandle,
        /// What is derived.
        data: &'a [u8],
    },
}

/// Makes a handle for `subject` that differs from all others, also of the same key.
pub async fn mint(validation_key: &dyn SymmetricKey, subject: Subject<'_>) -> Result<KeyHandle, Error> {
    let mut nonce = [0; 64];
    openssl::rand::rand_bytes(&mut nonce).map_err(Error::crypto("make random numbers"))?;
    mint_with(validation_key, subject, &nonce).await
}

/// Checks that `handle` was minted under `validation_key` and says what it stands for (6.2).
///
/// The checks are on text and MAC; whether the key still exists is the store's matter.
pub async fn open(validation_key: &dyn SymmetricKey, handle: &KeyHandle) -> Result<Opened, Error> {
    let text = genuine_text(validation_key, handle.as_str()).await?;
    match subject(&text)? {
        WireId::Key(id) => Ok(Opened::Key(permit(&id)?)),
        WireId::KeyPair(id) => Ok(Opened::KeyPair(permit(&id)?)),
        WireId::Derived(base, data) => {
            let text = genuine_text(validation_key, &base).await?;
            match subject(&text)? {
                WireId::Key(id) | WireId::KeyPair(id) => {
                    Ok(Opened::Derived { base: permit(&id)?, data: data.into_owned() })
                }
                WireId::Derived(..) => Err(Error::NestedDerivation),
            }
        }
    }
}

async fn mint_with(
    validation_key: &dyn SymmetricKey,
    subject: Subject<'_>,
    nonce: &[u8; 64],
) -> Result<KeyHandle, Error> {
    let key_id = match subject {
        Subject::Key(permit) => WireId::Key(permit.id().as_str().into()),
        Subject::KeyPair(permit) => WireId::KeyPair(permit.id().as_str().into()),
        Subject::Derived { base, data } => WireId::Derived(base.as_str().into(), data.into()),
    };
    let text = serde_json::to_string(&Sr { key_id, nonce: STANDARD.encode(nonce).into() })
        .map_err(|_| Error::MalformedHandle("cannot be written"))?;
    let mac = validation_key.hmac(text.as_bytes()).await?;
    Ok(KeyHandle::from(format!("sr={}&sig={}", STANDARD.encode(text), STANDARD.encode(mac))))
}

/// The decoded `sr` part of `handle`, once its MAC has been found good.
async fn genuine_text(validation_key: &dyn SymmetricKey, handle: &str) -> Result<Vec<u8>, Error> {
    let (mut sr, mut sig) = (None, None);
    for piece in handle.split('&') {
        if let Some(value) = piece.strip_prefix("sr=") {
            sr = Some(decode(value)?);
        } else if let Some(value) = piece.strip_prefix("sig=") {
            sig = Some(decode(value)?);
        }
    }
    let (Some(sr), Some(sig)) = (sr, sig) else {
        return Err(Error::MalformedHandle("it lacks sr= or sig="));
    };
    if validation_key.verify(&sr, &sig).await? { Ok(sr) } else { Err(Error::ForgedHandle) }
}

fn decode(value: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(value).map_err(|_| Error::MalformedHandle("it is not base64"))
}

fn subject(text: &[u8]) -> Result<WireId<'_>, Error> {
    let sr: Sr<'_> = serde_json::from_slice(text)
        .map_err(|_| Error::MalformedHandle("its sr part does not name a key"))?;
    Ok(sr.key_id)
}

fn permit(id: &str) -> Result<Permit, Error> {
    Permit::from_handle(KeyId::new(id)?)
}

/// The text that is signed, fields in the order of the wire.
#[derive(Serialize, Deserialize)]
struct Sr<'a> {
    #[serde(borrow)]
    key_id: WireId<'a>,
    #[serde(borrow)]
    nonce: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
enum WireId<'a> {
    #[serde(borrow)]
    Key(Cow<'a, str>),
    #[serde(borrow)]
    KeyPair(Cow<'a, str>),
    /// The complete handle of the base, and the data as an array of numbers.
    Derived(String, Cow<'a, [u8]>),
}

#[cfg(test)]
mod tests {
    use crate::hmac::hmac_sha256;
    use crate::store::SoftKey;

    use super::*;

    /// The vector of spec keys-service, 6.4: its text and its MAC.
    const DEMO: &str = "sr=eyJrZXlfaWQiOnsiS2V5IjoiZGVtbyBrZXkvMSJ9LCJub25jZSI6IkFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPT0ifQ==&sig=5ZqyBPXQHbmOnNvuV/e2xnJbJCx27y6M6ES/Awx4NdI=";

    const VALIDATION_KEY: [u8; 32] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        28, 29, 30, 31,
    ];

    fn validation_key() -> SoftKey {
        SoftKey::new(VALIDATION_KEY.to_vec().into())
    }

    fn granted(id: &str) -> Permit {
        Permit::from_handle(KeyId::new(id).unwrap()).unwrap()
    }

    /// A handle whose MAC is right, whatever its text says.
    fn signed(text: &str) -> KeyHandle {
        let mac = hmac_sha256(&VALIDATION_KEY, text.as_bytes());
        KeyHandle::from(format!("sr={}&sig={}", STANDARD.encode(text), STANDARD.encode(mac)))
    }

    async fn open_text(text: &str) -> Result<Opened, Error> {
        open(&validation_key(), &KeyHandle::from(text.to_owned())).await
    }

    #[tokio::test]
    async fn mints_the_vector_byte_for_byte() {
        let key = granted("demo key/1");
        let handle = mint_with(&validation_key(), Subject::Key(&key), &[0; 64]).await.unwrap();
        assert_eq!(handle.as_str(), DEMO);
        let subject = Subject::Derived { base: &handle, data: b"mod-a" };
        let derived = mint_with(&validation_key(), subject, &[0; 64]).await.unwrap();
        assert!(derived.as_str().ends_with("&sig=Rz+Hm1rpVOwRzQpGSG5vBBtf1Z2j/EE8QA5bDRAwYw8="));
        let sr = derived.as_str().strip_prefix("sr=").unwrap().split('&').next().unwrap();
        let text = String::from_utf8(STANDARD.decode(sr).unwrap()).unwrap();
        assert!(
            text.starts_with(&format!(r#"{{"key_id":{{"Derived":["{DEMO}",[109,111,100,45,97]]}},"nonce":"#))
        );
    }

    #[tokio::test]
    async fn escapes_as_little_as_json_allows() {
        let key = granted("a\"\\\n\u{1}\u{1f}/ß");
        let handle = mint_with(&validation_key(), Subject::KeyPair(&key), &[0; 64]).await.unwrap();
        let sr = handle.as_str().strip_prefix("sr=").unwrap().split('&').next().unwrap();
        let text = String::from_utf8(STANDARD.decode(sr).unwrap()).unwrap();
        assert!(text.starts_with(r#"{"key_id":{"KeyPair":"a\"\\\n\u0001\u001f/ß"},"#), "{text}");
    }

    #[tokio::test]
    async fn opens_what_it_minted() {
        let (key, data) = (granted("größe key/2"), vec![0, 255, 7]);
        let base = mint(&validation_key(), Subject::Key(&key)).await.unwrap();
        assert_eq!(open(&validation_key(), &base).await.unwrap(), Opened::Key(key.clone()));
        assert_ne!(base, mint(&validation_key(), Subject::Key(&key)).await.unwrap());
        let pair = mint(&validation_key(), Subject::KeyPair(&key)).await.unwrap();
        assert_eq!(open(&validation_key(), &pair).await.unwrap(), Opened::KeyPair(key.clone()));
        let derived = mint(&validation_key(), Subject::Derived { base: &base, data: &data }).await.unwrap();
        assert_eq!(open(&validation_key(), &derived).await.unwrap(), Opened::Derived { base: key, data });
    }

    #[tokio::test]
    async fn order_and_foreign_parts_do_not_matter_and_the_last_of_a_name_counts() {
        let (sr, sig) = DEMO.split_once('&').unwrap();
        for handle in
            [format!("{sig}&{sr}"), format!("x=y&{sr}&&{sig}&se=%"), format!("sr=AAAA&sig=AAAA&{sr}&{sig}")]
        {
            assert!(open_text(&handle).await.is_ok(), "{handle}");
        }
        assert!(open_text(&format!("{sr}&{sig}&sr=AAAA")).await.is_err());
        assert!(open_text(&format!("sr=!&{sr}&{sig}")).await.is_err(), "bad base64 in any sr= piece");
    }

    #[tokio::test]
    async fn every_flipped_bit_is_noticed() {
        for at in 0..DEMO.len() {
            let mut bytes = DEMO.as_bytes().to_vec();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(open_text(&text).await.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_not_a_handle_is_refused() {
        for text in ["", "sr=", "sig=", "sr=&sig=", DEMO.split_once('&').unwrap().0, "hello"] {
            assert!(open_text(text).await.is_err(), "{text}");
        }
        let mut short = DEMO.split_once("&sig=").unwrap().0.to_owned();
        short.push_str("&sig=5ZqyBPXQHbmOnNvuV/e2xg==");
        assert!(matches!(open_text(&short).await, Err(Error::ForgedHandle)));
    }

    #[tokio::test]
    async fn signed_text_is_read_with_tolerance() {
        let ok = [
            r#"{"key_id":{"Key":"a"},"nonce":""}"#,
            r#" { "x" : [1], "nonce" : "?" , "key_id" : { "Key" : "\u0061" } } "#,
        ];
        for text in ok {
            assert_eq!(
                open(&validation_key(), &signed(text)).await.unwrap(),
                Opened::Key(granted("a")),
                "{text}"
            );
        }
        let bad = [
            r#"{"key_id":{"Key":"a"}}"#,
            r#"{"key_id":{"Key":"a"},"nonce":1}"#,
            r#"{"key_id":{"Other":"a"},"nonce":""}"#,
            r#"{"key_id":{"Derived":["x",[256]]},"nonce":""}"#,
            "{",
        ];
        for text in bad {
            let refused = open(&validation_key(), &signed(text)).await;
            assert!(matches!(refused, Err(Error::MalformedHandle(_))), "{text}");
        }
        let nul = open(&validation_key(), &signed(r#"{"key_id":{"Key":"a\u0000"},"nonce":""}"#)).await;
        assert!(matches!(nul, Err(Error::NulInId)));
    }

    #[tokio::test]
    async fn nested_and_reserved_handles_are_refused_though_genuine() {
        let derived =
            mint(&validation_key(), Subject::Derived { base: &KeyHandle::from(DEMO.to_owned()), data: b"1" })
                .await;
        let nested =
            mint(&validation_key(), Subject::Derived { base: &derived.unwrap(), data: b"2" }).await.unwrap();
        assert!(matches!(open(&validation_key(), &nested).await, Err(Error::NestedDerivation)));
        let reserved = signed(r#"{"key_id":{"Key":"handle-validation-key"},"nonce":""}"#);
        assert!(matches!(open(&validation_key(), &reserved).await, Err(Error::ReservedHandle)));
        let below = mint(&validation_key(), Subject::Derived { base: &reserved, data: b"" }).await.unwrap();
        assert!(matches!(open(&validation_key(), &below).await, Err(Error::ReservedHandle)));
        let forged_base =
            Subject::Derived { base: &KeyHandle::from(DEMO.replace("sr=ey", "sr=eX")), data: b"" };
        let forged_base = mint(&validation_key(), forged_base).await.unwrap();
        assert!(open(&validation_key(), &forged_base).await.is_err());
    }
}
