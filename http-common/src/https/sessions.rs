//! TLS sessions to resume: what a server has given us on one connection so that the next one needs neither its certificate
//! nor a signature by ours. Knows no handshake.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslContextRef, SslSession, SslSessionCacheMode};
use zeroize::Zeroizing;

/// The sessions of one context, by server. They end with it.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<Server, VecDeque<Session>>>>);

/// In DER, since OpenSSL spends a session that a connection has used. It holds a secret.
type Session = Zeroizing<Vec<u8>>;

/// Host and port: a session is never offered to anybody but who gave it.
type Server = (Box<str>, u16);

impl Sessions {
    /// Keep the sessions that connections of `context` are given.
    pub(super) fn gather(&self, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let (sessions, server) = (self.clone(), server_of()?);
        context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        context.set_new_session_callback(move |ssl, session| {
            // One that cannot be written down costs the next connection a full handshake.
            if let (Some(server), Ok(session)) = (ssl.ex_data(server), session.to_der()) {
                sessions.put(server.clone(), Zeroizing::new(session));
            }
        });
        Ok(())
    }

    /// A TLS connection to be, of the context that the sessions are of.
    pub(super) fn connection(
        &self,
        context: &SslContextRef,
        host: &str,
        port: u16,
    ) -> Result<Ssl, ErrorStack> {
        let server: Server = (host.into(), port);
        let mut ssl = match self.take(&server) {
            Some(session) => crate::ffi::resuming(context, &SslSession::from_der(&session)?)?,
            None => Ssl::new(context)?,
        };
        ssl.set_ex_data(server_of()?, server);
        Ok(ssl)
    }

    fn put(&self, server: Server, session: Session) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = sessions.entry(server).or_default();
        of_server.push_back(session);
        if of_server.len() > KEPT {
            of_server.pop_front();
        }
    }

    /// The newest one. Each is used once if there are others; the last one stays, since a server that minds gives a full
    /// handshake instead.
    fn take(&self, server: &Server) -> Option<Session> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = sessions.get_mut(server)?;
        match of_server.len() {
            1 => of_server.back().cloned(),
            _ => of_server.pop_back(),
        }
    }
}

/// Where a connection remembers whose it is.
fn server_of() -> Result<Index<Ssl, Server>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Server>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let index = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| index))
        }
    }
}

/// Sessions of one server.
const KEPT: usize = 8;
