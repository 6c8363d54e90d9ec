//! What the system says of memory. Known on Linux; elsewhere nothing is.

use std::fs;
use std::path::{Path, PathBuf};

/// Of the memory that there is, how much a server may have by default; the rest is for the system and for answers on
/// their way.
const SHARE: f64 = 0.9;

/// Nine tenths of the memory that this process may have at most: of the machine's, or of what its control group (a
/// container, a systemd unit) allows, if that is less. `None` where the system does not say.
pub fn default_memory_limit() -> Option<usize> {
    let machine = field(Path::new("/proc/meminfo"), "MemTotal");
    let group = group_limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"));
    let least = machine.into_iter().chain(group).min()?;
    Some((least as f64 * SHARE) as usize)
}

/// Bytes of memory that this process has now. Pages of mapped weights count while they are in memory.
pub fn resident() -> Option<usize> {
    field(Path::new("/proc/self/status"), "VmRSS")
}

/// The most bytes that [`resident`] ever was.
pub fn peak() -> Option<usize> {
    field(Path::new("/proc/self/status"), "VmHWM")
}

/// Bytes of memory that this process has now and that no file stands behind.
pub fn anonymous() -> Option<usize> {
    field(Path::new("/proc/self/status"), "RssAnon")
}

/// The least limit of this process's control group and of those around it, as cgroup v2 or v1 has them. `membership` is
/// `/proc/self/cgroup`; in a container its paths may be those of the host, so that the root of `tree` counts too.
fn group_limit(tree: &Path, membership: &Path) -> Option<usize> {
    let membership = fs::read_to_string(membership).unwrap_or_default();
    let mut limits = Vec::new();
    for line in membership.lines().chain(["0::/", "0:memory:/"]) {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file): (PathBuf, _) = match controllers {
            "" => (tree.to_path_buf(), "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                (tree.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = root.join(path.trim_start_matches('/'));
        let around = group.ancestors().take_while(|group| group.starts_with(&root));
        // `max` is no number. Without a limit v1 has one close to 2^63, which is more than any machine has.
        limits.extend(
            around
                .filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse::<usize>().ok()),
        );
    }
    limits.into_iter().min()
}

/// The value of the first line `name: value kB` of a file, in bytes.
fn field(file: &Path, name: &str) -> Option<usize> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?.1;
    // The kernel writes kB and means KiB.
    value.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_and_a_limit() {
        let (now, most, own) = (resident().unwrap(), peak().unwrap(), anonymous().unwrap());
        assert!(own <= now && now <= most, "{own} {now} {most}");
        let limit = default_memory_limit().unwrap();
        assert!(limit > now && limit < field(Path::new("/proc/meminfo"), "MemTotal").unwrap());
    }

    #[test]
    fn the_least_limit_of_all_groups_around_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, membership) = (folder.path().join("tree"), folder.path().join("cgroup"));
        let write = |path: &str, text: &str| {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(group_limit(&tree, &membership), None);

        // Version 2: a service in a slice.
        write("a.slice/b.service/memory.max", "max\n");
        write("a.slice/memory.max", "3000\n");
        fs::write(&membership, "0::/a.slice/b.service\n").unwrap();
        assert_eq!(group_limit(&tree, &membership), Some(3000));
        write("a.slice/b.service/memory.max", "2000\n");
        assert_eq!(group_limit(&tree, &membership), Some(2000));
        // A container sees its own group as the root, and may see the host's path.
        fs::write(&membership, "0::/docker/0123\n").unwrap();
        assert_eq!(group_limit(&tree, &membership), None);
        write("memory.max", "1000\n");
        assert_eq!(group_limit(&tree, &membership), Some(1000));

        // Version 1.
        fs::remove_file(tree.join("memory.max")).unwrap();
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        fs::write(&membership, "5:cpu,cpuacct:/c\n4:memory:/c\n").unwrap();
        assert_eq!(group_limit(&tree, &membership), Some(500));
    }
}
