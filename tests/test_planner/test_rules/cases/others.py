"""Recurrent layers, Fourier transforms, distances."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import (case, ints, normal,
                                                      positive)

__all__ = ["CASES"]

aten = torch.ops.aten
_X, _Y = normal(6, 4, 12), positive(6, 4, 12)
_MATRICES = torch.eye(3, dtype=torch.float64) * 4 + positive(6, 3, 3).detach()
_SYMMETRIC = (_MATRICES + _MATRICES.mT).requires_grad_()
_COMPLEX = torch.complex(_X.detach(), _Y.detach()).requires_grad_()
_STEPS = normal(5, 6, 4)
_WINDOW = torch.hann_window(8, dtype=torch.float64)
_SPECTRUM = torch.stft(normal(6, 24).detach(),
                       8,
                       4,
                       window=_WINDOW,
                       return_complex=True).requires_grad_()


def _weights(gates: int, bias: bool = True) -> list[torch.Tensor]:
    sizes = [(gates * 2, 4), (gates * 2, 2)]
    sizes += [(gates * 2, ), (gates * 2, )] if bias else []
    return [normal(*s) for s in sizes]


def _state() -> torch.Tensor:
    return normal(1, 6, 2)


_RECURRENT = (
    case(aten.lstm.input, _STEPS, [_state(), _state()], _weights(4), True, 1,
         0.0, True, False, False),
    case(aten.lstm.input, normal(6, 5, 4), [_state(), _state()],
         _weights(4, False), False, 1, 0.0, True, False, True),
    case(aten.gru.input, _STEPS, _state(), _weights(3), True, 1, 0.0, True,
         False, False),
    case(aten.rnn_tanh.input, _STEPS, _state(), _weights(1), True, 1, 0.0,
         True, False, False),
    case(aten.rnn_relu.input, _STEPS, _state(), _weights(1), True, 1, 0.0,
         True, False, False),
    case(aten.lstm_cell.default, normal(6, 4),
         [normal(6, 2), normal(6, 2)], *_weights(4)),
    case(aten.gru_cell.default, normal(6, 4), normal(6, 2), *_weights(3)),
    case(aten.rnn_tanh_cell.default, normal(6, 4), normal(6, 2), *_weights(1)),
    case(aten.rnn_relu_cell.default, normal(6, 4), normal(6, 2), *_weights(1)),
)

_SPECTRAL = (
    case(aten.fft_fft.default, _X, least=3),
    case(aten.fft_ifft.default, _X, None, 1, least=3),
    case(aten.fft_rfft.default, _X, least=3),
    case(aten.fft_irfft.default, _COMPLEX, least=3),
    case(aten.fft_hfft.default, _COMPLEX, None, 0, least=3),
    case(aten.fft_ihfft.default, _X, least=3),
    case(aten.fft_fft2.default, _X, least=2),
    case(aten.fft_ifft2.default, _X, least=2),
    case(aten.fft_rfft2.default, _X, least=2),
    case(aten.fft_irfft2.default, _COMPLEX, least=2),
    case(aten.fft_fftn.default, _X, None, [1], least=3),
    case(aten.fft_ifftn.default, _X, least=1),
    case(aten.fft_rfftn.default, _X, None, [1, 2], least=2),
    case(aten.fft_irfftn.default, _COMPLEX, None, [1, 2], least=2),
    case(aten._fft_c2c.default, _COMPLEX, [1], 0, True, least=3),
    case(aten._fft_c2r.default, _COMPLEX, [1], 0, 6, least=3),
    case(aten._fft_r2c.default, _X, [1], 0, True, least=3),
    case(aten.fft_fftshift.default, _X, [1], least=3),
    case(aten.stft.default,
         normal(6, 24),
         8,
         4,
         8,
         _WINDOW,
         False,
         True,
         True,
         least=1),
    case(aten.istft.default, _SPECTRUM, 8, 4, 8, _WINDOW, least=1),
    case(aten.fft_ifftshift.default, _X, [1], least=3),
    case(aten.view_as_complex.default, normal(6, 4, 2), least=3),
    case(aten.view_as_real.default, _COMPLEX, least=4),
    case(aten.real.default, _COMPLEX, least=4),
    case(aten.imag.default, _COMPLEX, least=4),
    case(aten._conj.default, _COMPLEX, least=4),
    case(aten.resolve_conj.default, _COMPLEX, least=4),
)

_DISTANCES = (
    case(aten.cosine_similarity.default, _X, _Y, least=2),
    case(aten.cosine_similarity.default, _X, _Y, -1, least=2),
    case(aten.pairwise_distance.default, _X, _Y, least=2),
    case(aten.cdist.default, normal(2, 6, 3), normal(2, 4, 3), least=3),
    case(aten._cdist_forward.default,
         normal(2, 6, 3),
         normal(2, 4, 3),
         2.0,
         None,
         least=3),
    case(aten.bilinear.default,
         normal(2, 6, 4),
         normal(2, 6, 6),
         normal(4, 4, 6),
         normal(4),
         least=8),
    case(aten.tensordot.default, _X, normal(12, 2, 4), [1, 2], [2, 0],
         least=6),
    case(aten.prelu.default, _X, normal(4), least=3),
    case(aten.prelu.default, _X, normal(1), least=3),
    case(aten._weight_norm.default, normal(6, 4), normal(6, 1), least=1),
    case(aten._weight_norm.default, normal(6, 4), normal(1, 4), 1, least=1),
    case(aten.meshgrid.default, [normal(6), normal(4)], least=2),
    case(aten.meshgrid.indexing, [normal(6), normal(4)],
         indexing="xy",
         least=2),
    case(aten.feature_dropout.default, _X, 0.5, True, values=False, least=2),
    case(aten.inverse.default, _SYMMETRIC),
    case(aten.linalg_inv.default, _SYMMETRIC),
    case(aten.det.default, _SYMMETRIC),
    case(aten.linalg_det.default, _SYMMETRIC),
    case(aten.linalg_cholesky.default, _SYMMETRIC),
    case(aten.linalg_matrix_exp.default, _SYMMETRIC),
    case(aten.linalg_eigh.default, _SYMMETRIC),
    case(aten.linalg_eigvalsh.default, _SYMMETRIC),
    case(aten.linalg_qr.default, _SYMMETRIC),
    case(aten.linalg_svdvals.default, _SYMMETRIC),
    case(aten.linalg_solve.default, _SYMMETRIC, normal(6, 3, 2)),
    case(aten.linalg_solve.default, _SYMMETRIC, normal(6, 3), least=0),
    case(aten.multinomial.default, positive(6, 4).detach(), 2, values=False),
)

_ROW_LOSSES = tuple(c for reduction in range(3) for c in (
    case(aten.cosine_embedding_loss.default, normal(6, 4), positive(6, 4),
         ints(2, 6) * 2 - 1, 0.1, reduction),
    case(aten.multi_margin_loss.default, normal(6, 4), ints(4, 6), 1, 1.0,
         positive(4).detach(), reduction),
    case(aten.multilabel_margin_loss.default, normal(6, 4), ints(4, 6, 4),
         reduction),
    case(aten.triplet_margin_loss.default, normal(6, 4), positive(6, 4),
         normal(4, 6).detach().mT.contiguous().requires_grad_(), 1.0, 2.0,
         1e-6, False, reduction),
))

_CTC = (case(torch.ops.scaletorch.ctc_loss.default,
             normal(12, 6, 5).detach().log_softmax(-1).requires_grad_(),
             ints(4, 6, 3) + 1, torch.full((6, ), 12),
             torch.tensor([3, 2, 3, 1, 2, 3]), 0, False), )

CASES = _RECURRENT + _SPECTRAL + _DISTANCES + _ROW_LOSSES + _CTC
