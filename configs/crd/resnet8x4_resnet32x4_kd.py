# KD (arXiv:1503.02531) as in the CRD benchmark: 0.1 of the labels, 0.9 of the logits at temperature 4.
_base_ = './resnet8x4_resnet32x4_serkd.py'
model = dict(
    losses=dict(
        loss_cls=dict(loss_weight=0.1),
        loss_kd=dict(tau=4.0, loss_weight=0.9),
        loss_feat=None,
        loss_rd=None,
        loss_ra=None,
    )
)
