//! Reflection: tells tools such as grpcurl what there is to call, in both versions of the protocol that they speak.

use tonic::service::RoutesBuilder;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::{Builder, Error};

/// The services that are told of, beside the API.
pub(super) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(super) const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

pub(super) fn add_to(routes: &mut RoutesBuilder) -> Result<(), Error> {
    routes.add_service(builder().build_v1()?);
    routes.add_service(builder().build_v1alpha()?);
    Ok(())
}

fn builder() -> Builder<'static> {
    let builder = Builder::configure().include_reflection_service(false);
    let files = [
        tertulia_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        v1::FILE_DESCRIPTOR_SET,
        v1alpha::FILE_DESCRIPTOR_SET,
    ];
    files.into_iter().fold(builder, Builder::register_encoded_file_descriptor_set)
}
