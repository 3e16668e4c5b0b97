//! What OpenSSL's public headers declare and `openssl-sys` lacks: core_dispatch(7), core_object.h, params.h, provider.h
//! and the newer half of evp.h. Nothing here is deprecated in OpenSSL 3 or 4.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

pub(super) use openssl_sys::{EVP_MD, EVP_MD_CTX, EVP_PKEY, EVP_PKEY_CTX, OSSL_LIB_CTX, OSSL_PROVIDER};
pub(super) use openssl_sys::{
    EVP_MD_CTX_free, EVP_MD_CTX_new, EVP_MD_free, EVP_PKEY_CTX_free, EVP_PKEY_free,
};
pub(super) use openssl_sys::{OSSL_LIB_CTX_free, OSSL_LIB_CTX_new, OSSL_PROVIDER_load, OSSL_PROVIDER_unload};

/// `OSSL_PARAM`: one named value, in an array that ends with a null name.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Param {
    pub(super) key: *const c_char,
    pub(super) data_type: c_uint,
    pub(super) data: *mut c_void,
    pub(super) data_size: usize,
    pub(super) return_size: usize,
}

/// `OSSL_DISPATCH`: a function and what it is for, in an array that ends with number 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Dispatch {
    pub(super) id: c_int,
    pub(super) function: *const (),
}

/// `OSSL_ALGORITHM`: an implementation with its names and properties, in an array that ends with null names.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Algorithm {
    pub(super) names: *const c_char,
    pub(super) properties: *const c_char,
    pub(super) implementation: *const Dispatch,
    pub(super) description: *const c_char,
}

/// `OSSL_ITEM`: a number and its text.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: c_uint,
    pub(super) text: *const c_char,
}

/// `OSSL_CORE_HANDLE`: the provider, as libcrypto knows it.
pub enum CoreHandle {}
/// `OSSL_CORE_BIO`: a BIO of libcrypto.
pub(super) enum CoreBio {}

/// `OSSL_ENCODER_CTX`: a key that is to be written.
pub(super) enum EncoderCtx {}

/// `OSSL_CALLBACK`.
pub(super) type Callback = unsafe extern "C" fn(*const Param, *mut c_void) -> c_int;
/// `OSSL_PASSPHRASE_CALLBACK`.
pub(super) type AskPassphrase =
    unsafe extern "C" fn(*mut c_char, usize, *mut usize, *const Param, *mut c_void) -> c_int;
/// `OSSL_provider_init_fn`.
pub(super) type ProviderInit =
    unsafe extern "C" fn(*const CoreHandle, *const Dispatch, *mut *const Dispatch, *mut *mut c_void) -> c_int;

// SAFETY: the pointers in a table lead to functions and static texts.
unsafe impl Sync for Dispatch {}
// SAFETY: the pointers in a table lead to static tables and texts.
unsafe impl Sync for Algorithm {}
// SAFETY: the pointers in a table lead to static texts.
unsafe impl Sync for Item {}
// SAFETY: the pointers in a static table lead to static texts, and nobody writes through them.
unsafe impl Sync for Param {}

pub(super) const INTEGER: c_uint = 1;
pub(super) const UNSIGNED_INTEGER: c_uint = 2;
pub(super) const UTF8_STRING: c_uint = 4;
pub(super) const OCTET_STRING: c_uint = 5;
pub(super) const UTF8_PTR: c_uint = 6;
pub(super) const OCTET_PTR: c_uint = 7;
/// `OSSL_PARAM_UNMODIFIED`.
pub(super) const UNMODIFIED: usize = usize::MAX;

pub(super) const OP_KEYMGMT: c_int = 10;
pub(super) const OP_SIGNATURE: c_int = 12;
pub(super) const OP_ASYM_CIPHER: c_int = 13;
pub(super) const OP_ENCODER: c_int = 20;
pub(super) const OP_DECODER: c_int = 21;
pub(super) const OP_STORE: c_int = 22;

/// `OSSL_KEYMGMT_SELECT_*`.
pub(super) const SELECT_PRIVATE: c_int = 0x01;
pub(super) const SELECT_PUBLIC: c_int = 0x02;
pub(super) const SELECT_KEYPAIR: c_int = SELECT_PRIVATE | SELECT_PUBLIC;
pub(super) const SELECT_DOMAIN: c_int = 0x04;
pub(super) const SELECT_OTHER: c_int = 0x80;
pub(super) const SELECT_ALL: c_int = SELECT_KEYPAIR | SELECT_DOMAIN | SELECT_OTHER;

/// `OSSL_OBJECT_PKEY`.
pub(super) const OBJECT_PKEY: c_int = 2;

unsafe extern "C" {
    pub(super) fn EVP_MD_fetch(
        lib: *mut OSSL_LIB_CTX,
        name: *const c_char,
        properties: *const c_char,
    ) -> *mut EVP_MD;
    pub(super) fn EVP_MD_up_ref(md: *mut EVP_MD) -> c_int;
    pub(super) fn EVP_MD_get_size(md: *const EVP_MD) -> c_int;
    pub(super) fn EVP_MD_get0_name(md: *const EVP_MD) -> *const c_char;
    pub(super) fn EVP_MD_CTX_copy_ex(out: *mut EVP_MD_CTX, from: *const EVP_MD_CTX) -> c_int;
    pub(super) fn EVP_DigestInit_ex2(ctx: *mut EVP_MD_CTX, md: *const EVP_MD, params: *const Param) -> c_int;
    pub(super) fn EVP_DigestUpdate(ctx: *mut EVP_MD_CTX, data: *const c_void, length: usize) -> c_int;
    pub(super) fn EVP_DigestFinal_ex(
        ctx: *mut EVP_MD_CTX,
        digest: *mut c_uchar,
        length: *mut c_uint,
    ) -> c_int;

    pub(super) fn EVP_PKEY_up_ref(key: *mut EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_dup(key: *mut EVP_PKEY) -> *mut EVP_PKEY;
    pub(super) fn EVP_PKEY_eq(a: *const EVP_PKEY, b: *const EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_parameters_eq(a: *const EVP_PKEY, b: *const EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_get_bits(key: *const EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_get_size(key: *const EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_get_params(key: *const EVP_PKEY, params: *mut Param) -> c_int;
    pub(super) fn EVP_PKEY_set_params(key: *mut EVP_PKEY, params: *mut Param) -> c_int;
    pub(super) fn EVP_PKEY_export(
        key: *const EVP_PKEY,
        selection: c_int,
        callback: Option<Callback>,
        argument: *mut c_void,
    ) -> c_int;
    pub(super) fn EVP_PKEY_todata(key: *const EVP_PKEY, selection: c_int, params: *mut *mut Param) -> c_int;
    pub(super) fn OSSL_PARAM_free(params: *mut Param);

    pub(super) fn EVP_PKEY_CTX_new_from_name(
        lib: *mut OSSL_LIB_CTX,
        name: *const c_char,
        properties: *const c_char,
    ) -> *mut EVP_PKEY_CTX;
    pub(super) fn EVP_PKEY_CTX_new_from_pkey(
        lib: *mut OSSL_LIB_CTX,
        key: *mut EVP_PKEY,
        properties: *const c_char,
    ) -> *mut EVP_PKEY_CTX;
    pub(super) fn EVP_PKEY_CTX_dup(ctx: *const EVP_PKEY_CTX) -> *mut EVP_PKEY_CTX;
    pub(super) fn EVP_PKEY_CTX_set_params(ctx: *mut EVP_PKEY_CTX, params: *const Param) -> c_int;
    pub(super) fn EVP_PKEY_CTX_get_params(ctx: *mut EVP_PKEY_CTX, params: *mut Param) -> c_int;
    pub(super) fn EVP_PKEY_fromdata_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_fromdata(
        ctx: *mut EVP_PKEY_CTX,
        key: *mut *mut EVP_PKEY,
        selection: c_int,
        params: *mut Param,
    ) -> c_int;
    pub(super) fn EVP_PKEY_fromdata_settable(ctx: *mut EVP_PKEY_CTX, selection: c_int) -> *const Param;
    pub(super) fn EVP_PKEY_paramgen_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_keygen_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_generate(ctx: *mut EVP_PKEY_CTX, key: *mut *mut EVP_PKEY) -> c_int;
    pub(super) fn EVP_PKEY_public_check(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_param_check(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_private_check(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_pairwise_check(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_sign_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_sign(
        ctx: *mut EVP_PKEY_CTX,
        out: *mut c_uchar,
        length: *mut usize,
        data: *const c_uchar,
        data_length: usize,
    ) -> c_int;
    pub(super) fn EVP_PKEY_verify_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_verify(
        ctx: *mut EVP_PKEY_CTX,
        signature: *const c_uchar,
        signature_length: usize,
        data: *const c_uchar,
        data_length: usize,
    ) -> c_int;
    pub(super) fn EVP_PKEY_verify_recover_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_verify_recover(
        ctx: *mut EVP_PKEY_CTX,
        out: *mut c_uchar,
        length: *mut usize,
        signature: *const c_uchar,
        signature_length: usize,
    ) -> c_int;
    pub(super) fn EVP_PKEY_encrypt_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_encrypt(
        ctx: *mut EVP_PKEY_CTX,
        out: *mut c_uchar,
        length: *mut usize,
        data: *const c_uchar,
        data_length: usize,
    ) -> c_int;
    pub(super) fn EVP_PKEY_decrypt_init(ctx: *mut EVP_PKEY_CTX) -> c_int;
    pub(super) fn EVP_PKEY_decrypt(
        ctx: *mut EVP_PKEY_CTX,
        out: *mut c_uchar,
        length: *mut usize,
        data: *const c_uchar,
        data_length: usize,
    ) -> c_int;

    pub(super) fn OSSL_ENCODER_CTX_new_for_pkey(
        key: *const EVP_PKEY,
        selection: c_int,
        output: *const c_char,
        structure: *const c_char,
        properties: *const c_char,
    ) -> *mut EncoderCtx;
    pub(super) fn OSSL_ENCODER_CTX_free(ctx: *mut EncoderCtx);
    pub(super) fn OSSL_ENCODER_CTX_set_cipher(
        ctx: *mut EncoderCtx,
        name: *const c_char,
        properties: *const c_char,
    ) -> c_int;
    pub(super) fn OSSL_ENCODER_CTX_set_passphrase_cb(
        ctx: *mut EncoderCtx,
        ask: Option<AskPassphrase>,
        argument: *mut c_void,
    ) -> c_int;
    pub(super) fn OSSL_ENCODER_to_data(
        ctx: *mut EncoderCtx,
        data: *mut *mut c_uchar,
        length: *mut usize,
    ) -> c_int;
    pub(super) fn CRYPTO_clear_free(data: *mut c_void, length: usize, file: *const c_char, line: c_int);

    pub(super) fn OSSL_PROVIDER_add_builtin(
        lib: *mut OSSL_LIB_CTX,
        name: *const c_char,
        init: Option<ProviderInit>,
    ) -> c_int;

    pub(super) fn OSSL_PROVIDER_get_capabilities(
        provider: *const OSSL_PROVIDER,
        capability: *const c_char,
        callback: Option<Callback>,
        argument: *mut c_void,
    ) -> c_int;

    /// getenv(3) that finds nothing in a set-uid program.
    pub(super) fn secure_getenv(name: *const c_char) -> *mut c_char;
}
