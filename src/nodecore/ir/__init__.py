"""The intermediate representation: fields as graphs, derivatives as graphs, graphs as programs.

``trace`` turns a NumPy function into a :class:`~nodecore.ir.graph.Graph`; ``autodiff`` turns graphs
into graphs of derivatives; ``lower`` turns graphs into :class:`~nodecore.ir.program.Program`, the
flat instruction arrays that the kernels evaluate; ``numpy_eval`` says in NumPy what they mean.
"""
