//! The subject that the configuration puts in the place of a request's (spec certificates-service, 8.1). Knows no
//! certificates.

use std::collections::BTreeMap;

use cert_api::{IssuanceOptions, Subject};
use openssl::error::ErrorStack;
use openssl::x509::{X509Name, X509NameBuilder};

/// A configured subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubjectOverride {
    CommonName(String),
    /// By OpenSSL's names, in bytewise order.
    Names(BTreeMap<String, String>),
}

/// An attribute of a configured subject that OpenSSL does not take.
#[derive(Debug, thiserror::Error)]
#[error("the attribute {key:?} is not known, or its value does not fit it")]
pub struct BadSubject {
    key: String,
    source: ErrorStack,
}

impl SubjectOverride {
    /// What `options` say; `common_name` wins.
    pub(crate) fn of(options: &IssuanceOptions) -> Option<Self> {
        match (&options.common_name, &options.subject) {
            (Some(name), _) => Some(Self::CommonName(name.clone())),
            (None, Some(Subject::Names(names))) => Some(Self::Names(names.clone())),
            (None, Some(Subject::Unusable) | None) => None,
        }
    }

    /// The name in X.509: one attribute in each RDN.
    pub(crate) fn name(&self) -> Result<X509Name, BadSubject> {
        let mut builder = X509Name::builder().map_err(bad(COMMON_NAME))?;
        match self {
            Self::CommonName(name) => add(&mut builder, COMMON_NAME, name)?,
            Self::Names(names) => {
                for (key, value) in names {
                    add(&mut builder, key, value)?;
                }
            }
        }
        Ok(builder.build())
    }
}

fn add(builder: &mut X509NameBuilder, key: &str, value: &str) -> Result<(), BadSubject> {
    if key.contains('\0') {
        return Err(bad(key)(ErrorStack::get()));
    }
    if !key.eq_ignore_ascii_case(COMMON_NAME) {
        return builder.append_entry_by_text(key, value).map_err(bad(key));
    }
    // Cut by characters, as X.520 counts.
    let cut = value.char_indices().nth(COMMON_NAME_LIMIT).map_or(value, |(end, _)| &value[..end]);
    builder.append_entry_by_text(COMMON_NAME, cut).map_err(bad(key))
}

fn bad(key: &str) -> impl FnOnce(ErrorStack) -> BadSubject {
    let key = key.to_owned();
    move |source| BadSubject { key, source }
}

const COMMON_NAME: &str = "CN";
/// Characters of a common name (X.520, `ub-common-name`).
const COMMON_NAME_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use openssl::nid::Nid;

    use super::*;

    fn names(entries: &[(&str, &str)]) -> SubjectOverride {
        SubjectOverride::Names(
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        )
    }

    fn shown(subject: &SubjectOverride) -> String {
        let name = subject.name().unwrap();
        let entries = name.entries().map(|entry| {
            format!("{}={}", entry.object().nid().short_name().unwrap(), entry.data().to_string().unwrap())
        });
        entries.collect::<Vec<_>>().join(",")
    }

    #[test]
    fn certs_41_rdns_are_in_the_order_of_their_keys() {
        let subject = names(&[("ST", "Ohio"), ("L", "Lima"), ("CN", "a"), ("O", "Acme")]);
        assert_eq!(shown(&subject), "CN=a,L=Lima,O=Acme,ST=Ohio");
        assert_eq!(shown(&names(&[])), "");
        assert_eq!(shown(&names(&[("commonName", "a"), ("2.5.4.10", "b")])), "O=b,CN=a");
        assert_eq!(shown(&names(&[("cn", "a")])), "CN=a");
    }

    #[test]
    fn certs_43_a_common_name_is_cut_at_64_characters() {
        let long = "ü".repeat(70);
        let expected = format!("CN={}", "ü".repeat(64));
        assert_eq!(shown(&SubjectOverride::CommonName(long.clone())), expected);
        assert_eq!(shown(&names(&[("CN", &long)])), expected);
    }

    #[test]
    fn certs_44_what_does_not_fit_is_refused() {
        for (key, value) in [
            ("C", "DEU"),
            ("C", "D"),
            ("O", ""),
            ("o", "x"),
            ("nonsense", "x"),
            ("OU", &"x".repeat(65)),
            ("a\0", "x"),
            ("CN", ""),
        ] {
            let error = names(&[(key, value)]).name().err().unwrap();
            assert!(error.to_string().contains(&format!("{key:?}")), "{error}");
        }
    }

    #[test]
    fn string_types_are_those_of_the_standard() {
        let subject =
            names(&[("C", "DE"), ("CN", "a"), ("DC", "b"), ("emailAddress", "c@d"), ("serialNumber", "1")]);
        let name = subject.name().unwrap();
        let der = name.to_der().unwrap();
        for (tag, value) in [(0x13, "DE"), (0x0c, "a"), (0x16, "b"), (0x16, "c@d"), (0x13, "1")] {
            let element = crate::der::element(tag, value.as_bytes());
            assert!(der.windows(element.len()).any(|window| window == element), "{value}");
        }
        assert!(name.entries_by_nid(Nid::COMMONNAME).next().is_some());
    }
}
