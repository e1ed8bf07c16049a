# The CPU image of sorsa:
#
#   docker build -t sorsa .
#   docker run --read-only -p 8000:8000 -e SORSA_API_KEY -v "$PWD/.cache/models:/models:ro" sorsa \
#       serve /models/SmolLM2-135M-Instruct.Q4_1.gguf --served-model-name smollm2

FROM rust:1.95-bookworm AS builder
WORKDIR /src

# Dependencies first, behind an empty crate: this layer is rebuilt only where the manifest changes.
# Tests and benchmarks stay out of the context, so the manifest must not name them.
COPY Cargo.toml Cargo.lock ./
RUN sed -i '/^\[\[test\]\]/,/^$/d; /^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin sorsa

COPY src src
# Files keep their old times in a build context, and cargo compares times.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin sorsa

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="sorsa" \
      org.opencontainers.image.description="One base model, many SORSA or LoRA adapters, OpenAI endpoints" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=builder /src/target/release/sorsa /usr/local/bin/sorsa
# Whom to trust where adapters are fetched from.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/sorsa/

# A number, so that an orchestrator can see that it is not root. Nothing is written anywhere.
USER 65532:65532
# Within a container the loopback address would reach nobody.
ENV SORSA_HOST=0.0.0.0
EXPOSE 8000
STOPSIGNAL SIGTERM
# Asks /health on SORSA_PORT; the start period covers the loading of a large model.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["sorsa", "health"]
ENTRYPOINT ["sorsa"]
CMD ["--help"]
