"""Files of llama.cpp: where their tensors lie, and the folder that a GGUF file is read as."""
