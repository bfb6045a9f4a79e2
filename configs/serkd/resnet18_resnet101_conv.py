# Table II: tokens by strided convolutions, learned on the student's side.
_base_ = './resnet18_resnet101.py'
model = dict(
    views={
        name: dict(tokenizer=dict(_delete_=True, type='ConvTokenizer', window=view.tokenizer.window))
        for name, view in _base_.model.views.items()
    }
)
