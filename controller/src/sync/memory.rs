//! How much memory a program that renders may take: all that run at once fit into the container beside the controller,
//! because the kernel ends a container that takes too much as a whole. Pure.

/// What the controller itself may need: a third of that at most times.
const OWN: u64 = 96 << 20;
/// With less not even a small chart can be rendered, so that in a container of less than 224 MiB they may take too much.
const LEAST: u64 = 64 << 20;
/// More than anything that is known needs.
const MOST: u64 = 1 << 30;
/// What a Go program maps and does not touch, on 64 bits: an index of its heap.
const UNTOUCHED: u64 = 32 << 20;

/// What each of so many may take in a container that is limited to this.
pub fn share(container: Option<u64>, concurrency: usize) -> u64 {
    let left = container.unwrap_or(u64::MAX).saturating_sub(OWN);
    (left / concurrency.max(1) as u64).clamp(LEAST, MOST)
}

/// What the kernel says of a limit; `max` is none.
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// What a Go program may map to take so much.
pub fn mapped(share: u64) -> u64 {
    share.saturating_add(UNTOUCHED)
}

/// From where on Go's collector shall work harder, in the form of GOMEMLIMIT. What is in use is scattered over twice as
/// much of what is mapped.
pub fn collected(share: u64) -> String {
    format!("{}B", mapped(share) / 2)
}

/// Whether Go's runtime said that it got no memory.
pub fn ran_out(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("fatal error: ") && line.contains("memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn all_that_run_at_once_fit_beside_the_controller() {
        for container in (224..2048).step_by(64) {
            for concurrency in 1..=2 {
                let share = share(Some(container * MIB), concurrency);
                assert!(share * concurrency as u64 + OWN <= container * MIB, "{container}");
            }
        }
        assert_eq!(share(Some(512 * MIB), 2), 208 * MIB, "the default of deploy/");
        assert_eq!(share(Some(64 * MIB), 2), LEAST);
        assert_eq!((share(None, 2), share(Some(u64::MAX), 2)), (MOST, MOST));
    }

    #[test]
    fn a_limit_is_as_the_kernel_writes_it() {
        assert_eq!(limit("536870912\n"), Some(512 * MIB));
        assert_eq!(limit("max\n"), None);
        // Version 1, without one.
        assert_eq!(share(limit("9223372036854771712\n"), 2), MOST);
    }

    #[test]
    fn go_is_known_by_its_last_words() {
        let warned =
            "# Warning: 'commonLabels' is deprecated.\nfatal error: runtime: out of memory\n\nruntime stack:\n";
        assert!(ran_out(warned) && ran_out("fatal error: out of memory allocating heap arena map\n"));
        assert!(!ran_out("Error: execution error at (c/templates/a.yaml:1:3): fatal error: out of memory\n"));
        assert!(!ran_out("fatal error: all goroutines are asleep - deadlock!\n"));
        assert_eq!(collected(208 * MIB), format!("{}B", 120 * MIB));
    }
}
