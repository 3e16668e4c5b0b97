//! libcrypto as it presents itself to a provider: its error stack, its BIOs, the provider's configuration.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr;

use super::params::END;
use super::sys::{CoreBio, CoreHandle, Dispatch, Param, UTF8_PTR};

/// The functions that libcrypto gives a provider, with its handle.
#[derive(Debug)]
pub(super) struct Core {
    handle: *const CoreHandle,
    get_params: Option<GetParams>,
    new_error: Option<NewError>,
    error_debug: Option<ErrorDebug>,
    vset_error: Option<VsetError>,
    bio_read: Option<BioRead>,
    bio_write: Option<BioWrite>,
    bio_gets: Option<BioGets>,
}

// SAFETY: libcrypto allows all these functions from any thread.
unsafe impl Send for Core {}
// SAFETY: as above.
unsafe impl Sync for Core {}

impl Core {
    /// # Safety
    /// What libcrypto passes to a provider's init function: `functions` ends with number 0 and has functions of the
    /// types that core_dispatch.h gives them; `handle` lives until the provider is torn down.
    pub(super) unsafe fn new(handle: *const CoreHandle, functions: *const Dispatch) -> Self {
        let mut core = Self {
            handle,
            get_params: None,
            new_error: None,
            error_debug: None,
            vset_error: None,
            bio_read: None,
            bio_write: None,
            bio_gets: None,
        };
        let mut next = functions;
        while !next.is_null() {
            // SAFETY: the end has not been passed yet.
            let Dispatch { id, function } = unsafe { *next };
            if id == 0 {
                break;
            }
            // SAFETY: the types are those of core_dispatch.h.
            unsafe { core.take(id, function) };
            // SAFETY: there is at least the end behind this entry.
            next = unsafe { next.add(1) };
        }
        core
    }

    /// # Safety
    /// `function` has the type that core_dispatch.h gives number `id`.
    unsafe fn take(&mut self, id: c_int, function: *const ()) {
        match id {
            // SAFETY: a function pointer of the type of the field, or null, which is None. So for all below.
            2 => self.get_params = unsafe { transmute::<*const (), Option<GetParams>>(function) },
            // SAFETY: as above.
            5 => self.new_error = unsafe { transmute::<*const (), Option<NewError>>(function) },
            // SAFETY: as above.
            6 => self.error_debug = unsafe { transmute::<*const (), Option<ErrorDebug>>(function) },
            // SAFETY: as above.
            7 => self.vset_error = unsafe { transmute::<*const (), Option<VsetError>>(function) },
            // SAFETY: as above.
            42 => self.bio_read = unsafe { transmute::<*const (), Option<BioRead>>(function) },
            // SAFETY: as above.
            43 => self.bio_write = unsafe { transmute::<*const (), Option<BioWrite>>(function) },
            // SAFETY: as above.
            49 => self.bio_gets = unsafe { transmute::<*const (), Option<BioGets>>(function) },
            _ => (),
        }
    }

    /// Puts an entry on the error stack of the thread.
    pub(super) fn raise(&self, reason: u32, text: &str) {
        let (Some(new_error), Some(error_debug), Some(vset_error)) =
            (self.new_error, self.error_debug, self.vset_error)
        else {
            return;
        };
        // It is a format: no directive may be left in it.
        let text = text.replace('%', "%%");
        let Ok(format) = CString::new(text) else { return };
        let mut no_arguments = VaList([0; 8]);
        // SAFETY: the handle is the provider's own.
        unsafe { new_error(self.handle) };
        // SAFETY: the texts are static.
        unsafe { error_debug(self.handle, c"key-engine".as_ptr(), 0, c"aziot".as_ptr()) };
        // SAFETY: the format has no directives, so the arguments are not looked at.
        unsafe { vset_error(self.handle, reason, format.as_ptr(), &mut no_arguments) };
    }

    /// The values of these keys in the provider's section of the configuration.
    pub(super) fn configuration<const N: usize>(&self, keys: [&'static CStr; N]) -> [Option<String>; N] {
        let mut values: [*const c_char; N] = [ptr::null(); N];
        let mut params: Vec<Param> = Vec::with_capacity(N + 1);
        for (key, value) in keys.iter().zip(&mut values) {
            let data = ptr::from_mut(value).cast::<c_void>();
            params.push(Param {
                key: key.as_ptr(),
                data_type: UTF8_PTR,
                data,
                data_size: 0,
                return_size: usize::MAX,
            });
        }
        params.push(END);
        if let Some(get_params) = self.get_params {
            // SAFETY: the array is complete, and each entry has room for a pointer.
            unsafe { get_params(self.handle, params.as_mut_ptr()) };
        }
        values.map(|value| {
            if value.is_null() {
                return None;
            }
            // SAFETY: libcrypto has set it to a C string that lives as long as the provider.
            let text = unsafe { CStr::from_ptr(value) };
            text.to_str().ok().map(str::to_owned)
        })
    }

    /// The next line of `bio` with its line end, or as much of it as `buffer` holds; None at the end.
    ///
    /// # Safety
    /// `bio` is one that libcrypto passed to the function that calls this.
    pub(super) unsafe fn read_line<'a>(&self, bio: *mut CoreBio, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let room = c_int::try_from(buffer.len()).ok()?;
        // SAFETY: the BIO is libcrypto's, the buffer has so much room.
        let read = unsafe { (self.bio_gets?)(bio, buffer.as_mut_ptr().cast(), room) };
        let length = usize::try_from(read).ok().filter(|length| *length > 0)?;
        buffer.get(..length)
    }

    /// All bytes of `bio`, `limit` at most.
    ///
    /// # Safety
    /// `bio` is one that libcrypto passed to the function that calls this.
    pub(super) unsafe fn read_all(&self, bio: *mut CoreBio, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        let mut filled = 0;
        while let (Some(read), true) = (self.bio_read, filled < limit) {
            let mut count = 0;
            let rest = &mut bytes[filled..];
            // SAFETY: the BIO is libcrypto's, the buffer has so much room.
            let status = unsafe { read(bio, rest.as_mut_ptr().cast(), rest.len(), &mut count) };
            if status != 1 || count == 0 {
                break;
            }
            filled += count;
        }
        bytes.truncate(filled);
        bytes
    }

    /// Writes all of `bytes` to `bio`.
    ///
    /// # Safety
    /// `bio` is one that libcrypto passed to the function that calls this.
    pub(super) unsafe fn write_all(&self, bio: *mut CoreBio, bytes: &[u8]) -> bool {
        let Some(write) = self.bio_write else { return false };
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut count = 0;
            // SAFETY: the BIO is libcrypto's, so many bytes are there.
            let status = unsafe { write(bio, rest.as_ptr().cast(), rest.len(), &mut count) };
            match rest.get(count..) {
                Some(unwritten) if status == 1 && count > 0 => rest = unwritten,
                _ => return false,
            }
        }
        true
    }
}

type GetParams = unsafe extern "C" fn(*const CoreHandle, *mut Param) -> c_int;
type NewError = unsafe extern "C" fn(*const CoreHandle);
type ErrorDebug = unsafe extern "C" fn(*const CoreHandle, *const c_char, c_int, *const c_char);
/// A `va_list` as argument is a pointer, or a structure around one, on all systems that we build for.
type VsetError = unsafe extern "C" fn(*const CoreHandle, u32, *const c_char, *mut VaList);
type BioRead = unsafe extern "C" fn(*mut CoreBio, *mut c_void, usize, *mut usize) -> c_int;
type BioWrite = unsafe extern "C" fn(*mut CoreBio, *const c_void, usize, *mut usize) -> c_int;
type BioGets = unsafe extern "C" fn(*mut CoreBio, *mut c_char, c_int) -> c_int;

/// Stands for a list of no arguments; larger than any `va_list`.
#[repr(C, align(16))]
struct VaList([u64; 8]);
