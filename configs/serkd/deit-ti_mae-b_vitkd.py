# ViTKD (arXiv:2209.02432): logits; the tokens of the first two blocks; and those of the last one, of which the student
# generates the masked half. The authors sum over the two blocks, a view is their mean: 2 x 3e-5.
_base_ = './deit-ti_mae-b_kd.py'
blocks = dict(block1='backbone.layers[0]', block2='backbone.layers[1]')
model = dict(
    student=dict(taps=blocks),
    teacher=dict(taps=blocks),
    views=dict(early=dict(taps=list(blocks), tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger'))),
    losses=dict(
        loss_mimic=dict(type='ViTKDMimickingLoss', on='early', loss_weight=6e-5),
        loss_generate=dict(type='ViTKDGenerationLoss', on='tokens', loss_weight=3e-6),
    ),
)
