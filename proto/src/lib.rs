//! The admin API of tertulia: code generated from `tertulia/admin/v1/admin.proto`, which documents it.

pub use prost_types::Timestamp;

/// The API, by version.
pub mod admin {
    /// `tertulia.admin.v1`: messages, `admin_service_client` and `admin_service_server`.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("tertulia.admin.v1");
    }
}

/// The descriptors of all files of the API and of what they import, comments included: a serialized
/// `google.protobuf.FileDescriptorSet` for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A moment as the API tells it, from milliseconds since 1970-01-01 UTC.
#[must_use]
pub fn timestamp(millis: u64) -> Timestamp {
    let seconds = i64::try_from(millis / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0);
    Timestamp { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};

    use super::*;

    fn files() -> Vec<FileDescriptorProto> {
        FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file
    }

    #[test]
    fn the_descriptors_hold_the_service_and_all_that_it_imports() {
        let files = files();
        let names: Vec<_> = files.iter().map(|file| file.name()).collect();
        for file in &files {
            for import in &file.dependency {
                assert!(names.contains(&import.as_str()), "{import} is imported by {} and missing", file.name());
            }
        }
        let admin = files.iter().find(|file| file.package() == "tertulia.admin.v1").unwrap();
        let calls: Vec<_> = admin.service[0].method.iter().map(|method| method.name()).collect();
        assert_eq!(admin.service[0].name(), "AdminService");
        assert_eq!(
            calls,
            [
                "ListGroups",
                "GetGroup",
                "ListMembers",
                "ListMessages",
                "ListConnections",
                "KickMember",
                "Disconnect",
                "CloseGroup",
                "ListHolds",
                "RemoveHold",
                "DeleteGroup",
                "PurgeHistory",
                "RemoveMessages",
                "Announce",
                "GetShardMap",
                "WatchEvents",
                "CreateBackup",
                "SetLogLevels",
            ]
        );
    }

    #[test]
    fn the_descriptors_carry_the_comments() {
        let files = files();
        let admin = files.iter().find(|file| file.package() == "tertulia.admin.v1").unwrap();
        let info = admin.source_code_info.as_ref().unwrap();
        let (service, call) = (vec![6, 0], vec![6, 0, 2, 0]);
        for path in [service, call] {
            let location = info.location.iter().find(|location| location.path == path).unwrap();
            assert!(location.leading_comments.is_some(), "nothing says what {path:?} is");
        }
    }

    #[test]
    fn a_timestamp_keeps_its_milliseconds() {
        assert_eq!(timestamp(1_764_064_801_042), Timestamp { seconds: 1_764_064_801, nanos: 42_000_000 });
        assert_eq!(timestamp(0), Timestamp { seconds: 0, nanos: 0 });
    }
}
