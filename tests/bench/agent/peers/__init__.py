"""One file a peer, run by the Python of its own environment: the same ONNX model, served leanly.

    python serve_NAME.py MODEL.onnx PORT    answers on 127.0.0.1:PORT until it is ended

Each has one worker, one runtime thread, no batching, no metrics and no access log where the peer
lets one choose, so that what is compared is the way of one request.
"""
