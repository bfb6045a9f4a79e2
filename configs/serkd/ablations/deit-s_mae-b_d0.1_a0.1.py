# Table VII: lambda_D = 0.1, lambda_A = 0.1.
_base_ = '../deit-s_mae-b.py'
model = dict(losses=dict(loss_rd=dict(loss_weight=0.1), loss_ra=dict(loss_weight=0.1)))
