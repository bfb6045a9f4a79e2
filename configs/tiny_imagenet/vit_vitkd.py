# ViTKD (arXiv:2209.02432): logits; the tokens of the first two blocks; and those of the last one, of which the student
# generates the masked half. Its authors have a ViT as teacher: here the maps with a stride of 4 and 8 stand for its first
# two blocks. They sum over the two blocks, a view is their mean: 2 x 3e-5.
_base_ = './vit_kd.py'
early = dict(tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=8))
model = dict(
    student=dict(taps=dict(block1='backbone.layers[0]', block2='backbone.layers[1]')),
    teacher=dict(taps=dict(block1='model.blocks[1]', block2='model.blocks[2]')),
    views=dict(early=dict(taps=['block1', 'block2'], **early)),
    losses=dict(
        loss_mimic=dict(type='ViTKDMimickingLoss', on='early', loss_weight=6e-5),
        loss_generate=dict(type='ViTKDGenerationLoss', on='tokens', loss_weight=3e-6),
    ),
)
