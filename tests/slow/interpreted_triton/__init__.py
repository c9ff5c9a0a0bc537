"""A Triton backend named "cpu" that compiles nothing: for kernels that run in Triton's interpreter on a CPU.

vLLM's model runner V2 needs a Triton with such a backend, which no wheel contains. With TRITON_INTERPRET=1,
Triton runs kernels in Python and asks the backend for nothing, so this one only has to exist. A test makes it
known to Triton by an entry point of the group "triton.backends".
"""
