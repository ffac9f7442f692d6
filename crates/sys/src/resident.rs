//! What of the program's own file is in memory.

use std::ffi::c_void;
use std::ptr;
use std::slice;

/// Gives back the code and the tables that only the start of the process needed: relocations, command line, set-up.
/// Pages that are used again come back from the page cache at their first use (`MADV_DONTNEED` in madvise(2)), so this
/// belongs at the end of the start of a process that lives long and does little. What it gives back counts as resident
/// for each process that has touched it, although the pages are shared.
///
/// Any thread may call it. It changes nothing but residence, so that failures are not told.
pub fn shed() {
    // SAFETY: the callback keeps to its signature and takes no data.
    unsafe { libc::dl_iterate_phdr(Some(shed_object), ptr::null_mut()) };
}

/// One of the files the process is made of.
unsafe extern "C" fn shed_object(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
    // SAFETY: no memory is handed over; glibc has the answer without a system call, so that a sandbox may be around it.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return 0 };
    // SAFETY: dl_iterate_phdr(3) passes a valid object.
    let Some(object) = (unsafe { object.as_ref() }) else { return 0 };
    // SAFETY: there are `dlpi_phnum` headers at `dlpi_phdr`, mapped as long as the object is.
    let headers = unsafe { slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    for header in headers {
        // Of a segment that is written, as relocations and data are, the file has not what memory has.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let Ok(begin) = usize::try_from(object.dlpi_addr.wrapping_add(header.p_vaddr)) else { continue };
        let Ok(size) = usize::try_from(header.p_memsz) else { continue };
        let first = begin & !(page - 1);
        // SAFETY: the pages from the segment's first to its end are a mapping of the file that nobody has written to:
        // the loader makes no such segment writable, as there are no relocations in code (DT_TEXTREL).
        unsafe {
            libc::madvise(ptr::with_exposed_provenance_mut(first), begin + size - first, libc::MADV_DONTNEED)
        };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_file_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Fails when nothing is given back, or when what is given back is not the same afterwards.
    #[test]
    fn what_was_used_comes_back() {
        let (before, environment) = (resident_file_kb(), std::env::vars().count());
        shed();
        let after = resident_file_kb();
        assert!(after < before, "{before} kB before, {after} kB after");
        assert_eq!(std::env::vars().count(), environment, "libc still works");
    }
}
