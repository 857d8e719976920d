# The build stage may be replaced by a folder that holds out/ (buildah bud --build-context build=FOLDER):
# so tests/cluster/image makes this same image without pulling anything.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked --bin postgres-migration-operator \
 && install -D target/*/release/postgres-migration-operator /out/postgres-migration-operator \
 && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

# One static binary. It writes nothing but /tmp, so the root may be read-only and the user any number.
FROM scratch
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/postgres-migration-operator"]
