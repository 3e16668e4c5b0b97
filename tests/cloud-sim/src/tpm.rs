//! The provisioning service's side of a TPM attestation: a key wrapped so that one TPM alone can unwrap it.
//!
//! Built from the public keys, without any TPM (spec cloud-protocols 8.3; TPM 2.0 Library, part 1, 23.3 and 24). Whoever
//! can sign with the key afterwards has proven that the endorsement key and the storage root key are in one TPM, and that
//! it has this TPM. Decides nothing about enrolments.

use openssl::{
    bn::BigNum,
    encrypt::Encrypter,
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKey, Public},
    rand::rand_bytes,
    rsa::{Padding, Rsa},
    sha::sha256,
    sign::Signer,
    symm::{Cipher, encrypt},
};

/// `key` (16 to 64 bytes) as the five structures that `POST /import_auth_key` takes, for the TPM that has both keys. They
/// are given as marshalled `TPM2B_PUBLIC`s.
///
/// # Errors
/// What is wrong with a public key, for a person to read.
pub fn wrap(endorsement_key: &[u8], storage_root_key: &[u8], key: &[u8]) -> Result<Vec<u8>, String> {
    wrap_with(endorsement_key, storage_root_key, key, (ATTRIBUTES, &[]))
}

/// The same for a key with other attributes (`TPMA_OBJECT`) and an authorization value.
///
/// # Errors
/// As [`wrap`].
pub fn wrap_with(
    endorsement_key: &[u8],
    storage_root_key: &[u8],
    key: &[u8],
    kind: (u32, &[u8]),
) -> Result<Vec<u8>, String> {
    let endorsement_key =
        RsaKey::parse(endorsement_key).map_err(|why| format!("the endorsement key {why}"))?;
    let storage_root_key =
        RsaKey::parse(storage_root_key).map_err(|why| format!("the storage root key {why}"))?;
    wrap_for(&endorsement_key, &storage_root_key, key, kind)
        .map_err(|err| format!("OpenSSL does not wrap the key: {err}"))
}

/// The same `TPM2B_PUBLIC` or not, whatever stands behind it.
pub(crate) fn is_same_key(one: &[u8], other: &[u8]) -> bool {
    let area = |public| sized(public).map(|(area, _)| area);
    area(one).is_some() && area(one) == area(other)
}

/// An RSA-2048 key of a TPM.
struct RsaKey {
    key: PKey<Public>,
    name: Vec<u8>,
}

impl RsaKey {
    fn parse(public: &[u8]) -> Result<RsaKey, &'static str> {
        let Some((area, [])) = sized(public) else { return Err("is no TPM2B_PUBLIC") };
        if !area.starts_with(&[0, 1, 0, 0x0B]) {
            return Err("is no RSA key named by SHA-256");
        }
        let Some((rest, modulus)) = area.split_last_chunk::<256>() else { return Err("is too short") };
        if !rest.ends_with(&[8, 0, 0, 0, 0, 0, 1, 0]) {
            return Err("has not 2048 bits and the usual exponent");
        }
        let key = || {
            let rsa = Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_u32(65537)?)?;
            PKey::from_rsa(rsa)
        };
        let key = key().map_err(|_: ErrorStack| "has a modulus that is none")?;
        Ok(RsaKey { key, name: name(area) })
    }

    /// OAEP; `label` without its final zero.
    fn encrypt(&self, label: &str, secret: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut encrypter = Encrypter::new(&self.key)?;
        encrypter.set_rsa_padding(Padding::PKCS1_OAEP)?;
        encrypter.set_rsa_oaep_md(MessageDigest::sha256())?;
        encrypter.set_rsa_mgf1_md(MessageDigest::sha256())?;
        encrypter.set_rsa_oaep_label(&[label.as_bytes(), &[0]].concat())?;
        let mut encrypted = vec![0; encrypter.encrypt_len(secret)?];
        let length = encrypter.encrypt(secret, &mut encrypted)?;
        encrypted.truncate(length);
        Ok(encrypted)
    }
}

fn wrap_for(
    endorsement_key: &RsaKey,
    storage_root_key: &RsaKey,
    key: &[u8],
    (attributes, authorization): (u32, &[u8]),
) -> Result<Vec<u8>, ErrorStack> {
    let attributes = attributes.to_be_bytes();
    let (seed_value, inner_key) = (random::<32>()?, random::<16>()?);
    let unique = sha256(&[&seed_value[..], key].concat());
    let public =
        [&KEYED_HASH[..], &SHA256, &attributes, &with_size(&[]), &HMAC, &SHA256, &with_size(&unique)]
            .concat();
    let key_name = name(&public);
    let sensitive =
        [&KEYED_HASH[..], &with_size(authorization), &with_size(&seed_value), &with_size(key)].concat();
    let sensitive = with_size(&sensitive);
    let integrity = sha256(&[&sensitive[..], &key_name].concat());
    let inner = cfb(&inner_key, &[with_size(&integrity), sensitive].concat())?;

    let (outer_seed, credential_seed) = (random::<32>()?, random::<32>()?);
    let duplicate = protect(&outer_seed, &key_name, &inner)?;
    let credential = protect(&credential_seed, &storage_root_key.name, &with_size(&inner_key))?;
    let parts = [
        credential,
        endorsement_key.encrypt("IDENTITY", &credential_seed)?,
        duplicate,
        storage_root_key.encrypt("DUPLICATE", &outer_seed)?,
        public,
    ];
    Ok(parts.iter().flat_map(|part| with_size(part)).collect())
}

/// `data` encrypted and authenticated by what follows from `seed`, for the object of this name.
fn protect(seed: &[u8], name: &[u8], data: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let encrypted = cfb(&derive(seed, "STORAGE", name, 128)?, data)?;
    let mac = hmac(&derive(seed, "INTEGRITY", &[], 256)?, &[&encrypted[..], name].concat())?;
    Ok([with_size(&mac), encrypted].concat())
}

/// KDFa with SHA-256 for up to 256 bits; `context` is its contextU, contextV is empty.
fn derive(key: &[u8], label: &str, context: &[u8], bits: u16) -> Result<Vec<u8>, ErrorStack> {
    let counter = 1_u32.to_be_bytes();
    let bits_text = u32::from(bits).to_be_bytes();
    let mut derived = hmac(key, &[&counter[..], label.as_bytes(), &[0], context, &bits_text].concat())?;
    derived.truncate(usize::from(bits / 8));
    Ok(derived)
}

fn hmac(key: &[u8], message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(message)
}

fn cfb(key: &[u8], data: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    encrypt(Cipher::aes_128_cfb128(), key, Some(&[0; 16]), data)
}

fn random<const N: usize>() -> Result<[u8; N], ErrorStack> {
    let mut bytes = [0; N];
    rand_bytes(&mut bytes)?;
    Ok(bytes)
}

/// The name of an object with this public area.
fn name(area: &[u8]) -> Vec<u8> {
    [&SHA256[..], &sha256(area)].concat()
}

/// A `TPM2B`; `bytes` are fewer than 65536, as all parts here are.
fn with_size(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes(), bytes].concat()
}

/// The `TPM2B` that `bytes` begins with, and what follows it.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))
}

const KEYED_HASH: [u8; 2] = [0, 0x08];
const HMAC: [u8; 2] = [0, 0x05];
const SHA256: [u8; 2] = [0, 0x0B];
/// sign, noDA, userWithAuth.
const ATTRIBUTES: u32 = 0x0004_0440;

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::pkey::Private;

    fn public(key: &PKey<Private>) -> Vec<u8> {
        let fixed =
            [0, 1, 0, 0x0B, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0];
        with_size(&[&fixed[..], &key.rsa().unwrap().n().to_vec_padded(256).unwrap()].concat())
    }

    fn decrypt(key: &PKey<Private>, label: &str, encrypted: &[u8]) -> Vec<u8> {
        let mut decrypter = openssl::encrypt::Decrypter::new(key).unwrap();
        decrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        decrypter.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
        decrypter.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
        decrypter.set_rsa_oaep_label(&[label.as_bytes(), &[0]].concat()).unwrap();
        let mut secret = vec![0; decrypter.decrypt_len(encrypted).unwrap()];
        let length = decrypter.decrypt(encrypted, &mut secret).unwrap();
        secret[..length].to_vec()
    }

    fn unprotect<'a>(seed: &[u8], name: &[u8], protected: &'a [u8]) -> Vec<u8> {
        let (mac, encrypted): (&[u8], &'a [u8]) = sized(protected).unwrap();
        let key = derive(seed, "INTEGRITY", &[], 256).unwrap();
        assert_eq!(mac, hmac(&key, &[encrypted, name].concat()).unwrap());
        let key = derive(seed, "STORAGE", name, 128).unwrap();
        openssl::symm::decrypt(Cipher::aes_128_cfb128(), &key, Some(&[0; 16]), encrypted).unwrap()
    }

    /// What a TPM does; that a TPM agrees is proven by the journeys in `tests/tests/tpm`.
    #[test]
    fn who_has_both_keys_can_unwrap() {
        let pair = || PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let (ek, srk, key) = (pair(), pair(), [7; 32]);
        let wrapped = wrap(&public(&ek), &public(&srk), &key).unwrap();
        assert_eq!(wrapped.len(), 764);
        let mut rest = &wrapped[..];
        let mut next = || {
            let (part, after) = sized(rest).unwrap();
            rest = after;
            part
        };
        let [credential, credential_seed, duplicate, seed, area] = [(); 5].map(|()| next());
        let srk_name = name(&public(&srk)[2..]);
        let inner_key = unprotect(&decrypt(&ek, "IDENTITY", credential_seed), &srk_name, credential);
        let inner = unprotect(&decrypt(&srk, "DUPLICATE", seed), &name(area), duplicate);
        let inner = openssl::symm::decrypt(Cipher::aes_128_cfb128(), &inner_key[2..], Some(&[0; 16]), &inner)
            .unwrap();
        let (integrity, sensitive) = sized(&inner).unwrap();
        assert_eq!(integrity, sha256(&[sensitive, &name(area)].concat()));
        assert!(sensitive.ends_with(&key));
    }

    #[test]
    fn other_public_keys_are_refused() {
        let good = public(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
        let changed = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            bad
        };
        for bad in
            [vec![], good[..283].to_vec(), [&good[..], &[0]].concat(), changed(3, 0x23), changed(20, 4)]
        {
            assert!(wrap(&bad, &good, &[1; 32]).unwrap_err().contains("endorsement key"));
            assert!(wrap(&good, &bad, &[1; 32]).unwrap_err().contains("storage root key"));
        }
        assert!(is_same_key(&good, &[&good[..], b"more"].concat()) && !is_same_key(&good, &changed(200, 0)));
        assert!(!is_same_key(&[], &[]));
    }
}
