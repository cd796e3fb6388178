//! Comparing bytes eight at a time. The C library of the target does it byte by byte, which took a tenth of what a request
//! costs: a token of 1,600 bytes is compared with the one that was verified.
#![expect(unsafe_code, reason = "the compiler calls these by their names, with pointers")]

/// Below, at or above 0 as the first byte that differs says.
///
/// # Safety
/// Both are readable for `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, size: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every read ends at `size` or before it.
    unsafe {
        while size - at >= 8 {
            let (one, other) = (left.add(at).cast::<u64>(), right.add(at).cast::<u64>());
            if one.read_unaligned() != other.read_unaligned() {
                break;
            }
            at += 8;
        }
        while at < size {
            let (one, other) = (left.add(at).read(), right.add(at).read());
            if one != other {
                return i32::from(one) - i32::from(other);
            }
            at += 1;
        }
    }
    0
}

/// 0 where both are the same.
///
/// # Safety
/// Both are readable for `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, size: usize) -> i32 {
    // SAFETY: what holds for the one holds for the other.
    unsafe { memcmp(left, right, size) }
}
