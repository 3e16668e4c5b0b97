//! Digests from the private library context.

use std::ffi::CStr;
use std::ptr;

use zeroize::Zeroizing;

use super::evp::{LibCtx, Md, MdCtx, done};
use super::sys;
use crate::Error;
use crate::padding::Hash;

impl Md {
    pub(super) fn fetch(lib: &LibCtx, name: &CStr) -> Result<Self, Error> {
        // SAFETY: the context lives and the name ends.
        let md = unsafe { sys::EVP_MD_fetch(lib.as_ptr(), name.as_ptr(), ptr::null()) };
        Self::owning(md, "find the digest").map_err(|_| Error::Digest(name.to_string_lossy().into_owned()))
    }

    pub(super) fn name(&self) -> &str {
        // SAFETY: the digest lives.
        let name = unsafe { sys::EVP_MD_get0_name(self.as_ptr()) };
        if name.is_null() {
            return "";
        }
        // SAFETY: it is a C string that lives as long as the digest.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_str().unwrap_or_default()
    }
}

impl Clone for Md {
    fn clone(&self) -> Self {
        // SAFETY: the digest lives.
        let counted = unsafe { sys::EVP_MD_up_ref(self.as_ptr()) };
        assert_eq!(counted, 1, "counting a reference cannot fail");
        Self(self.0)
    }
}

impl Hash for Md {
    fn size(&self) -> usize {
        // SAFETY: the digest lives.
        let size = unsafe { sys::EVP_MD_get_size(self.as_ptr()) };
        usize::try_from(size).unwrap_or_default()
    }

    fn digest(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut ctx = MdCtx::new(self)?;
        parts.iter().try_for_each(|part| ctx.update(part))?;
        ctx.finish(self.size())
    }
}

impl MdCtx {
    pub(super) fn new(md: &Md) -> Result<Self, Error> {
        // SAFETY: no precondition.
        let ctx = Self::owning(unsafe { sys::EVP_MD_CTX_new() }, "begin a digest")?;
        // SAFETY: both objects live.
        done(unsafe { sys::EVP_DigestInit_ex2(ctx.as_ptr(), md.as_ptr(), ptr::null()) }, "begin the digest")?;
        Ok(ctx)
    }

    pub(super) fn update(&mut self, data: &[u8]) -> Result<(), Error> {
        // SAFETY: the object lives, and so many bytes are there.
        done(unsafe { sys::EVP_DigestUpdate(self.as_ptr(), data.as_ptr().cast(), data.len()) }, "digest")
    }

    /// The digest of `size` bytes.
    pub(super) fn finish(&mut self, size: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut digest = Zeroizing::new(vec![0; size.max(LONGEST_DIGEST)]);
        let mut length = 0;
        // SAFETY: the object lives, and there is room for the longest digest.
        done(unsafe { sys::EVP_DigestFinal_ex(self.as_ptr(), digest.as_mut_ptr(), &mut length) }, "digest")?;
        digest.truncate(length as usize);
        Ok(digest)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Error> {
        // SAFETY: no precondition.
        let ctx = Self::owning(unsafe { sys::EVP_MD_CTX_new() }, "copy a digest")?;
        // SAFETY: both objects live.
        done(unsafe { sys::EVP_MD_CTX_copy_ex(ctx.as_ptr(), self.as_ptr()) }, "copy a digest")?;
        Ok(ctx)
    }
}

/// `EVP_MAX_MD_SIZE`.
const LONGEST_DIGEST: usize = 64;
