# The controller, kustomize and helm on nothing but a CA bundle, as a user without rights.
FROM golang:1.26-bookworm AS tools
ENV CGO_ENABLED=0 GOBIN=/tools
RUN go install -trimpath -ldflags "-s -w -X sigs.k8s.io/kustomize/api/provenance.version=v5.8.2" \
        sigs.k8s.io/kustomize/kustomize/v5@v5.8.2 \
    && go install -trimpath -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=v3.19.5" \
        helm.sh/helm/v3/cmd/helm@v3.19.5

# Of rust-toolchain.toml, whose other components nobody needs here: with the variable rustup fetches none.
FROM rust:1.95.0-bookworm AS build
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo static --package controller && mv target/*/release/signet-controller /

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=tools /tools/kustomize /tools/helm /usr/local/bin/
COPY --from=build /signet-controller /signet-controller
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/signet-controller"]
