"""What fairseq's option ``common.user_dir`` is pointed at: it imports this folder by its name."""

import dyt_wav2vec.registration  # noqa: F401
