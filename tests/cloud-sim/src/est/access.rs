//! Who may enrol at a label: HTTP Basic and TLS client certificates (RFC 7030, section 3.2.3 and 3.3.2).

use super::{
    EstError, Issuing,
    label::{Access, Label},
};
use crate::{call::Call, trust::CaCertificates};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::memcmp;

/// Who the client has proven to be, for the log.
pub(super) fn admit(
    label: &Label,
    issuing: &Issuing,
    known: &CaCertificates,
    call: &Call<'_>,
) -> Result<String, EstError> {
    let password = || basic(label, call);
    let certificate = || certificate(label, issuing, known, call);
    let challenged = |message: String| EstError::challenge(&message);
    let forbidden = |message: String| EstError::new(403, message);
    match label.authentication {
        Access::None => Ok("anyone".to_owned()),
        Access::Basic => password().map_err(challenged),
        Access::Certificate => certificate().map_err(forbidden),
        Access::Either => certificate().or_else(|no_certificate| {
            password().map_err(|no_password| challenged(format!("{no_certificate}; {no_password}")))
        }),
        Access::Both => {
            let certificate = certificate().map_err(forbidden)?;
            Ok(format!("{certificate} and {}", password().map_err(challenged)?))
        }
    }
}

fn basic(label: &Label, call: &Call<'_>) -> Result<String, String> {
    let header = call.request.header("authorization").ok_or("the request has no Authorization header")?;
    let (scheme, value) = header.trim().split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(format!("the Authorization scheme is {scheme}, not Basic"));
    }
    let text = STANDARD.decode(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or("the credentials are not base64 of UTF-8")?;
    let (user, password) = text.split_once(':').ok_or("the credentials have no colon")?;
    let right = label.users.get(user).is_some_and(|right| {
        right.len() == password.len() && memcmp::eq(right.as_bytes(), password.as_bytes())
    });
    match right {
        true => Ok(format!("user {user}")),
        false => Err(format!("the password of user {user} is wrong")),
    }
}

fn certificate(
    label: &Label,
    issuing: &Issuing,
    known: &CaCertificates,
    call: &Call<'_>,
) -> Result<String, String> {
    let shown = call.certificate.ok_or("the client has shown no certificate")?;
    let listed = |name: &String| label.trusted.as_ref().is_none_or(|names| names.contains(name));
    let uploaded = known.iter().filter(|(name, it)| it.is_verified && listed(name));
    let mut anchors = issuing.certificates().to_vec();
    anchors.extend(uploaded.map(|(_, it)| &it.certificate));
    shown.check_time(call.now_ms)?;
    let anchor = shown.anchor(&anchors, call.now_ms)?;
    let issuer = crate::certificate::common_name(&anchor.0);
    Ok(format!("certificate of {}, trusted by {issuer}", shown.common_name()))
}
