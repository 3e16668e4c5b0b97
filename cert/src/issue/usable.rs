//! Whether anybody can make use of a certificate: OpenSSL reads all of it and knows all that it declares critical. Knows
//! neither time nor issuer.

use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509Ref, X509StoreContext};

/// What keeps everybody who checks `certificate` from taking it; none if nothing does.
pub(super) fn fault(certificate: &X509Ref) -> Result<Option<String>, ErrorStack> {
    // Not absent, and yet no usage at all: OpenSSL's way to say that the extensions cannot be processed.
    let unreadable = certificate.key_usage().is_some_and(|usage| usage.is_empty());
    let fault = if unreadable { Some("one of them is malformed".to_owned()) } else { refusal(certificate)? };
    // What is left in the thread's queue belongs to no later failure.
    drop(ErrorStack::get());
    Ok(fault)
}

/// Why OpenSSL does not take `certificate`, though it is its own anchor and time does not matter.
fn refusal(certificate: &X509Ref) -> Result<Option<String>, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(certificate.to_owned())?;
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::NO_CHECK_TIME)?;
    let (store, none) = (store.build(), Stack::new()?);
    X509StoreContext::new()?.init(&store, certificate, &none, |context| {
        let is_taken = context.verify_cert()?;
        Ok((!is_taken).then(|| context.error().error_string().to_owned()))
    })
}
