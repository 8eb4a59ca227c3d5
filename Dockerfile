# The controller on nothing but libc and a CA bundle, as a user without rights.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package controller

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/signet-controller /signet-controller
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/signet-controller"]
