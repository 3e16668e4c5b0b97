//! An EST server (RFC 7030) on loopback, with an authority of its own, for tests. Knows nothing of certd, and shares no
//! code with it: what it reads and writes it reads and writes by itself.
//!
//! It is strict where certd has to be right (methods, content types, signatures of requests, who re-enrols what), and can
//! be told to be as slow, wrong or odd as servers are.
#![allow(dead_code, unused_imports, reason = "each test uses another part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends by panicking: that is its report")]
#![allow(unreachable_pub, missing_docs, reason = "a module of tests, included by several")]

pub mod authority;
pub mod http;
pub mod proxy;
pub mod server;

pub use authority::Issued;
pub use server::{Answer, EstServer, Settings};
