mod llama_oracle;
mod model_files;
mod model_oracle;
mod tiny_llama;
