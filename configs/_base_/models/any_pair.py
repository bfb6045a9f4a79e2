# SeRKD (arXiv:2503.21269) between any two classifiers of mmpretrain. Taps are found, and features of any resolution become a
# token grid that is merged to 7x7 superpixels. A child config names the student and the teacher.
model = dict(
    type='RelationDistiller',
    student=dict(),
    teacher=dict(),
    views=dict(
        tokens=dict(tap='patches', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=7)),
        superpixels=dict(tap='patches', tokenizer=dict(type='GridTokenizer'), merger=dict(type='SuperpixelMerger', grid=7)),
    ),
    losses=dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_ra=dict(type='TokenAngleLoss', on='superpixels', loss_weight=1.0),
    ),
)
