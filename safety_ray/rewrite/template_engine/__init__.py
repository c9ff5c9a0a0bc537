"""The engine `template`: texts from the source's sentences and from phrase files, without a language model.

It makes every stage of the pipeline runnable on any machine. Its texts are grammatical and varied, but they
are no rewriting in the paper's sense: a rephrased text keeps sentences of the source that contain none of
some hundred sensitive words, and a refusal depends on the source's type of harm, not on its content. The
column `engine` of the rows says so.
"""
