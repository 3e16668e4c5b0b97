//! `OSSL_PARAM` arrays as slices: reading, writing, building, and the static ones that say what is understood.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use zeroize::Zeroizing;

use super::sys::{
    INTEGER, OCTET_PTR, OCTET_STRING, Param, UNMODIFIED, UNSIGNED_INTEGER, UTF8_PTR, UTF8_STRING,
};

/// An entry of a static table: this name with a value of this type.
pub(super) const fn entry(key: &'static CStr, data_type: u32) -> Param {
    Param { key: key.as_ptr(), data_type, data: ptr::null_mut(), data_size: 0, return_size: 0 }
}

/// The end of every array.
pub(super) const END: Param =
    Param { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 };

/// The array at `params` without its end; empty if it is null.
///
/// # Safety
/// `params` is null or points to an array that ends with a null name and outlives `'a`.
pub(super) unsafe fn slice<'a>(params: *const Param) -> &'a [Param] {
    if params.is_null() {
        return &[];
    }
    let mut length = 0;
    loop {
        // SAFETY: the end has not been passed yet.
        let param = unsafe { params.add(length) };
        // SAFETY: it points into the array.
        let key = unsafe { (*param).key };
        if key.is_null() {
            break;
        }
        length += 1;
    }
    // SAFETY: so many entries are there.
    unsafe { std::slice::from_raw_parts(params, length) }
}

/// The entry named `key`.
pub(super) fn find<'a>(params: &'a [Param], key: &CStr) -> Option<&'a Param> {
    params.iter().find(|param| param.name() == key)
}

impl Param {
    /// Its name.
    pub(super) fn name(&self) -> &CStr {
        // SAFETY: an entry that is not the end has a name, a C string that lives as long as the array.
        unsafe { CStr::from_ptr(self.key) }
    }

    /// Its text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self.data_type {
            UTF8_STRING => {
                let bytes = self.raw()?;
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                std::str::from_utf8(&bytes[..end]).ok()
            }
            UTF8_PTR => {
                let text = self.pointer()?.cast::<c_char>();
                // SAFETY: such an entry points to a C string, and it is not null.
                let text = unsafe { CStr::from_ptr(text) };
                text.to_str().ok()
            }
            _ => None,
        }
    }

    /// Its bytes, if it is an octet string.
    pub(super) fn octets(&self) -> Option<&[u8]> {
        match self.data_type {
            OCTET_STRING => self.raw(),
            OCTET_PTR => {
                let bytes = self.pointer()?.cast::<u8>();
                // SAFETY: such an entry points to `data_size` bytes, and the pointer is not null.
                Some(unsafe { std::slice::from_raw_parts(bytes, self.data_size) })
            }
            _ => None,
        }
    }

    /// Its number, if it fits; numbers come in as many bytes as their writer saw fit.
    pub(super) fn integer(&self) -> Option<i64> {
        let bytes = self.raw()?;
        let mut most_significant_first = bytes.to_vec();
        if cfg!(target_endian = "little") {
            most_significant_first.reverse();
        }
        let is_negative = match self.data_type {
            INTEGER => most_significant_first.first().is_some_and(|byte| *byte >= 0x80),
            UNSIGNED_INTEGER => false,
            _ => return None,
        };
        let start = if is_negative { -1_i128 } else { 0 };
        if !(1..=size_of::<i64>()).contains(&bytes.len()) {
            return None;
        }
        let number =
            most_significant_first.iter().fold(start, |number, byte| number << 8 | i128::from(*byte));
        number.try_into().ok()
    }

    fn raw(&self) -> Option<&[u8]> {
        match self.data.is_null() {
            true => None,
            // SAFETY: an entry with data points to `data_size` bytes that live as long as the array.
            false => Some(unsafe { std::slice::from_raw_parts(self.data.cast(), self.data_size) }),
        }
    }

    fn pointer(&self) -> Option<*const c_void> {
        if self.data.is_null() {
            return None;
        }
        // SAFETY: an entry of a pointer type points to a pointer.
        let pointer = unsafe { self.data.cast::<*const c_void>().read() };
        (!pointer.is_null()).then_some(pointer)
    }

    /// Make `text`, which must live as long as the provider, its value, if it asks for a pointer to text.
    pub(super) fn set_text_pointer(&mut self, text: &'static CStr) {
        if self.data_type == UTF8_PTR && !self.data.is_null() {
            // SAFETY: an entry of this type points to room for a pointer.
            unsafe { self.data.cast::<*const c_char>().write(text.as_ptr()) };
            self.return_size = text.count_bytes();
        }
    }

    /// Make `number` its value, if it asks for an int.
    pub(super) fn set_int(&mut self, number: c_int) {
        let is_integer = matches!(self.data_type, INTEGER | UNSIGNED_INTEGER);
        if is_integer && !self.data.is_null() && self.data_size == size_of::<c_int>() {
            // SAFETY: the entry points to room for so many bytes.
            unsafe { self.data.cast::<c_int>().write_unaligned(number) };
            self.return_size = self.data_size;
        }
    }
}

/// An array under construction, which owns its values.
#[derive(Debug, Default)]
pub(super) struct Builder {
    params: Vec<Param>,
    values: Vec<Zeroizing<Vec<u8>>>,
}

impl Builder {
    /// A copy of those entries of `params` that `wanted` accepts; their values stay where they are.
    pub(super) fn filtered(params: &[Param], wanted: impl Fn(&CStr) -> bool) -> Self {
        let params = params.iter().filter(|param| wanted(param.name())).copied().collect();
        Self { params, values: Vec::new() }
    }

    pub(super) fn text(self, key: &'static CStr, text: &str) -> Self {
        self.value(key, UTF8_STRING, text.as_bytes().to_vec())
    }

    pub(super) fn octets(self, key: &'static CStr, bytes: &[u8]) -> Self {
        self.value(key, OCTET_STRING, bytes.to_vec())
    }

    pub(super) fn int(self, key: &'static CStr, number: c_int) -> Self {
        self.value(key, INTEGER, number.to_ne_bytes().to_vec())
    }

    /// An unsigned number of any size from its big-endian bytes.
    pub(super) fn big_number(self, key: &'static CStr, bytes: &[u8]) -> Self {
        let mut native = bytes.to_vec();
        if cfg!(target_endian = "little") {
            native.reverse();
        }
        self.value(key, UNSIGNED_INTEGER, native)
    }

    /// An octet string that stays where it is.
    pub(super) fn borrowed_octets(mut self, key: &'static CStr, data: *mut c_void, data_size: usize) -> Self {
        self.params.push(Param {
            key: key.as_ptr(),
            data_type: OCTET_STRING,
            data,
            data_size,
            return_size: UNMODIFIED,
        });
        self
    }

    /// Room for `size` bytes of this type, to be filled in by the callee.
    pub(super) fn room(self, key: &'static CStr, data_type: u32, size: usize) -> Self {
        self.value(key, data_type, vec![0; size])
    }

    fn value(mut self, key: &'static CStr, data_type: u32, bytes: Vec<u8>) -> Self {
        // Text is followed by a NUL that does not count, for those who forget the length.
        let mut value = Zeroizing::new(bytes);
        let data_size = value.len();
        value.reserve_exact(1);
        value.push(0);
        let data = value.as_mut_ptr().cast();
        self.params.push(Param { key: key.as_ptr(), data_type, data, data_size, return_size: UNMODIFIED });
        self.values.push(value);
        self
    }

    /// The array, with its end.
    pub(super) fn finish(mut self) -> Built {
        self.params.push(END);
        Built { params: self.params, _values: self.values }
    }
}

/// A complete array.
#[derive(Debug)]
pub(super) struct Built {
    params: Vec<Param>,
    _values: Vec<Zeroizing<Vec<u8>>>,
}

impl Built {
    pub(super) fn as_ptr(&self) -> *const Param {
        self.params.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut Param {
        self.params.as_mut_ptr()
    }

    /// The entry named `key`, if the callee has filled it in.
    pub(super) fn filled(&self, key: &CStr) -> Option<&Param> {
        let (_, params) = self.params.split_last()?;
        find(params, key).filter(|param| param.return_size != UNMODIFIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read() {
        let built = Builder::default()
            .text(c"text", "äb")
            .octets(c"octets", b"\0x")
            .int(c"int", -3)
            .big_number(c"number", &[1, 0, 1, 2])
            .finish();
        // SAFETY: it was built to end with a null name.
        let params = unsafe { slice(built.as_ptr()) };
        assert_eq!(params.len(), 4);
        assert_eq!(find(params, c"text").and_then(Param::text), Some("äb"));
        assert_eq!(find(params, c"octets").and_then(Param::octets), Some(b"\0x".as_slice()));
        assert_eq!(find(params, c"int").and_then(Param::integer), Some(-3));
        assert_eq!(find(params, c"number").and_then(Param::integer), Some(0x0100_0102));
        assert_eq!(find(params, c"text").and_then(Param::integer), None);
        assert!(find(params, c"other").is_none() && built.filled(c"text").is_none());
        // SAFETY: null is allowed.
        assert!(unsafe { slice(ptr::null()) }.is_empty());
    }

    #[test]
    fn numbers_are_read_in_every_size() {
        // How `-pkeyopt bits:4096` arrives.
        let number = |bytes: &[u8]| {
            let built = Builder::default().big_number(c"bits", bytes).finish();
            // SAFETY: it was built to end with a null name.
            find(unsafe { slice(built.as_ptr()) }, c"bits").and_then(Param::integer)
        };
        assert_eq!(number(&[7]), Some(7));
        assert_eq!(number(&[0x10, 0]), Some(4096));
        assert_eq!(number(&[1, 0, 1]), Some(65537));
        assert_eq!(number(&[0, 0, 0, 0, 0, 0, 0x0c, 0]), Some(3072));
        assert_eq!(number(&[0xff; 8]), None);
        assert_eq!(number(&[0; 9]), None);
        assert_eq!(number(&[]), None);
        let signed = Builder::default().value(c"bits", INTEGER, vec![0xff]).finish();
        // SAFETY: it was built to end with a null name.
        assert_eq!(find(unsafe { slice(signed.as_ptr()) }, c"bits").and_then(Param::integer), Some(-1));
    }

    #[test]
    fn a_filtered_copy_has_an_end() {
        let built = Builder::default().int(c"a", 1).int(c"b", 2).finish();
        // SAFETY: it was built to end with a null name.
        let params = unsafe { slice(built.as_ptr()) };
        let filtered = Builder::filtered(params, |key| key == c"b").text(c"c", "x").finish();
        // SAFETY: it was built to end with a null name.
        let params = unsafe { slice(filtered.as_ptr()) };
        assert_eq!(params.iter().map(Param::name).collect::<Vec<_>>(), [c"b", c"c"]);
    }
}
