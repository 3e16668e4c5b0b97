//! The floors: servers that do the least that a reply needs. They run in a process of their own, on the runtime that
//! keyd has, and know nothing of the suite.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::sign::Signer;
use openssl::symm::{Cipher, encrypt_aead};
use serde::Deserialize;
use serde_json::json;

/// What a floor does for a request besides HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Nothing: the body comes back.
    Echo,
    /// JSON in and out and an ECDSA P-256 signature.
    Ecdsa,
    /// JSON in and out and an HMAC-SHA256.
    Hmac,
    /// JSON in and out and AES-256-GCM.
    Aead,
}

impl Floor {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Echo, Self::Ecdsa, Self::Hmac, Self::Aead];

    /// Its name, on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Ecdsa => "json+ecdsa",
            Self::Hmac => "json+hmac",
            Self::Aead => "json+aead",
        }
    }

    /// The floor of this name.
    pub(crate) fn of_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|floor| floor.name() == name).context("unknown floor")
    }
}

/// Serves `floor` at `socket` for ever.
pub(crate) fn serve(floor: Floor, socket: &Path) -> Result<()> {
    let work = Arc::new(Work::new(floor)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let work = Arc::clone(&work);
            let service = hyper::service::service_fn(move |request| answer(Arc::clone(&work), request));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    })
}

async fn answer(work: Arc<Work>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let reply = work.reply(body).unwrap_or_else(|error: anyhow::Error| error.to_string().into());
    let mut response = Response::new(Full::new(reply));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Work {
    floor: Floor,
    pair: PKey<Private>,
    hmac: PKey<Private>,
    secret: [u8; 32],
}

#[derive(Deserialize)]
struct Sent<'s> {
    #[serde(borrow)]
    parameters: Parameters<'s>,
    plaintext: Option<&'s str>,
}

#[derive(Deserialize)]
struct Parameters<'s> {
    digest: Option<&'s str>,
    message: Option<&'s str>,
    iv: Option<&'s str>,
    aad: Option<&'s str>,
}

impl Work {
    fn new(floor: Floor) -> Result<Self> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let pair = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let secret = [7; 32];
        Ok(Self { floor, pair, hmac: PKey::hmac(&secret)?, secret })
    }

    fn reply(&self, body: Bytes) -> Result<Bytes> {
        if self.floor == Floor::Echo {
            return Ok(body);
        }
        let sent: Sent<'_> = serde_json::from_slice(&body)?;
        let bytes = |text: Option<&str>| STANDARD.decode(text.unwrap_or_default());
        let reply = match self.floor {
            Floor::Echo => return Ok(body),
            Floor::Ecdsa => {
                let mut context = PkeyCtx::new(&self.pair)?;
                context.sign_init()?;
                let mut signature = Vec::new();
                context.sign_to_vec(&bytes(sent.parameters.digest)?, &mut signature)?;
                json!({ "signature": STANDARD.encode(signature) })
            }
            Floor::Hmac => {
                let mut signer = Signer::new(MessageDigest::sha256(), &self.hmac)?;
                let signature = signer.sign_oneshot_to_vec(&bytes(sent.parameters.message)?)?;
                json!({ "signature": STANDARD.encode(signature) })
            }
            Floor::Aead => {
                let (iv, aad) = (bytes(sent.parameters.iv)?, bytes(sent.parameters.aad)?);
                let plaintext = bytes(sent.plaintext)?;
                let mut tag = [0; 16];
                let cipher = Cipher::aes_256_gcm();
                let mut sealed = encrypt_aead(cipher, &self.secret, Some(&iv), &aad, &plaintext, &mut tag)?;
                sealed.extend_from_slice(&tag);
                json!({ "ciphertext": STANDARD.encode(sealed) })
            }
        };
        Ok(serde_json::to_vec(&reply)?.into())
    }
}
