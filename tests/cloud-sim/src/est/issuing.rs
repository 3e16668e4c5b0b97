//! The CA behind EST: a root, and an intermediate that issues; kept in the simulator's directory.

use super::csr::{BASIC_CONSTRAINTS, Csr, EXTENDED_KEY_USAGE};
use crate::{
    authority::{Authority, Facts, common_name, new_key, self_signed},
    certificate::Certificate,
    dice::Dice,
};
use openssl::{
    bn::BigNum,
    error::ErrorStack,
    pkey::{PKey, Private},
    x509::{
        X509Builder,
        extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
    },
};
use std::{io, path::Path};

/// The root and the issuer.
#[derive(Debug, Clone)]
pub(crate) struct Issuing {
    issuer: Authority,
    root_certificate: Certificate,
    issuer_certificate: Certificate,
}

impl Issuing {
    /// The CA in `dir` (`est-root.pem`, `est-issuer.pem` and their keys), made there if it is missing.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn open(dir: &Path) -> io::Result<Issuing> {
        let root = Authority::open(dir, "est-root", || Authority::new("aziot-cloud-sim EST root"))?;
        let below = || root.below("aziot-cloud-sim EST issuer");
        let mut issuer = Authority::open(dir, "est-issuer", below)?;
        if !issuer.is_below(&root) {
            // The root was made anew, so the issuer must be, too.
            std::fs::remove_file(dir.join("est-issuer.pem"))?;
            issuer = Authority::open(dir, "est-issuer", below)?;
        }
        let root_certificate = Certificate(root.certificate().clone());
        let issuer_certificate = Certificate(issuer.certificate().clone());
        Ok(Issuing { issuer, root_certificate, issuer_certificate })
    }

    /// The issuer's certificate and the root's.
    #[must_use]
    pub(crate) fn certificates(&self) -> [&Certificate; 2] {
        [&self.issuer_certificate, &self.root_certificate]
    }

    /// What `csr` asks for, with key identifiers, and with `clientAuth` unless it names other usages; for the
    /// `other` key, if given.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn grant(
        &self,
        csr: &Csr,
        valid: (i64, i64),
        other: Option<&PKey<Private>>,
        dice: &mut Dice,
    ) -> Result<Certificate, ErrorStack> {
        let facts = Facts { subject: csr.request.subject_name(), serial: serial(dice)?, valid };
        let extend = |builder: &mut X509Builder| {
            for extension in csr.wanted_extensions() {
                builder.append_extension(extension)?;
            }
            if !csr.asks_for(BASIC_CONSTRAINTS) {
                builder.append_extension(BasicConstraints::new().build()?)?;
            }
            match csr.asks_for(EXTENDED_KEY_USAGE) {
                true => Ok(()),
                false => builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?),
            }
        };
        let certificate = match other {
            Some(key) => self.issuer.issue(&facts, key, extend),
            None => self.issuer.issue(&facts, &csr.key, extend),
        };
        certificate.map(Certificate)
    }

    /// A certificate of this common name with a new key, for a device that is not to ask for it.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn make(
        &self,
        made: &Made<'_>,
        dice: &mut Dice,
    ) -> Result<(Certificate, PKey<Private>), ErrorStack> {
        let (key, subject) = (new_key()?, common_name(made.common_name)?);
        let facts = Facts { subject: &subject, serial: serial(dice)?, valid: made.valid };
        let extend = |builder: &mut X509Builder| extend_made(builder, made.ca);
        let certificate = match made.self_signed {
            true => self_signed(&facts, &key, extend)?,
            false => self.issuer.issue(&facts, &key, extend)?,
        };
        Ok((Certificate(certificate), key))
    }
}

/// What [`Issuing::make`] makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    /// Whose it is.
    pub(crate) common_name: &'a str,
    /// From when to when, Unix seconds.
    pub(crate) valid: (i64, i64),
    /// Whether it may issue others.
    pub(crate) ca: bool,
    /// Whether its own key signs it.
    pub(crate) self_signed: bool,
}

fn extend_made(builder: &mut X509Builder, ca: bool) -> Result<(), ErrorStack> {
    if ca {
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        return builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?);
    }
    builder.append_extension(BasicConstraints::new().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().client_auth().build()?)
}

/// A serial number that repeats with the seed.
fn serial(dice: &mut Dice) -> Result<BigNum, ErrorStack> {
    BigNum::from_hex_str(&dice.uuid().replace('-', ""))
}
