"""The Chinese lexicon (simplified characters): domains, ambiguous words, names and frames.

Words are not parted by blanks, so a character counts for as much as a word: within a domain the train half and the test half share no
character either.
"""

from collections.abc import Sequence

from bert.sample.grammar import HOLE, Language, Slots, domain, kind

DOMAINS = (
    domain(
        "food",
        "food",
        people="农民, 厨师, 村民 | 主妇, 商贩, 食客",
        verbs="清洗, 品尝, 收获 | 煮熟, 烹调, 吃光",
        things="梨子, 桃子, 葡萄, 香蕉 | 西瓜, 花生, 红薯, 豆腐",
        adjectives="香甜, 新鲜, 饱满 | 可口, 爽脆, 美味",
        places="菜园, 菜市场, 厨房 | 田野, 餐馆, 粮店",
    ),
    domain(
        "computer",
        "technology",
        people="程序员, 黑客, 工程师 | 网管, 开发者, 技术骨干",
        verbs="检测, 研究, 升级 | 调试, 破解, 扫描",
        things="电脑, 软件, 手机, 服务器 | 键盘, 平板, 系统, 芯片",
        adjectives="智能, 先进, 流畅 | 灵敏, 复杂, 隐蔽",
        places="机房, 实验室, 办公楼 | 网吧, 数据中心, 科创园",
    ),
    domain(
        "animal",
        "nature",
        people="饲养员, 养殖户, 动物学家 | 牧民, 兽医, 志愿者",
        verbs="喂养, 观察, 拍摄 | 救助, 追赶, 驯服",
        things="老虎, 兔子, 狐狸, 猴子 | 山羊, 麻雀, 骆驼, 松鼠",
        adjectives="温顺, 饥饿, 敏捷 | 凶猛, 胆小, 活泼",
        places="笼子旁, 草原, 树林 | 山坡, 保护区, 牧场",
    ),
    domain(
        "plant",
        "nature",
        people="花匠, 园艺师, 植物迷 | 茶农, 绿化工, 盆景能手",
        verbs="浇灌, 修剪, 种植 | 移栽, 嫁接, 采摘",
        things="玫瑰, 牡丹, 百合, 蔷薇 | 茉莉, 月季, 水仙, 海棠",
        adjectives="娇艳, 芬芳, 茂盛 | 鲜红, 枯萎, 洁白",
        places="花园, 温室, 阳台 | 苗圃, 庭院, 溪边",
    ),
    domain(
        "money",
        "money",
        people="股民, 经理, 会计 | 外商, 分析员, 银行家",
        verbs="投资, 收购, 评估 | 买入, 抛售, 审查",
        things="企业, 基金, 股票, 信托 | 债券, 工厂, 商号, 保险",
        adjectives="赚钱, 富有, 稳健 | 亏损, 强势, 红火",
        places="交易所, 股市, 董事会 | 证券部, 写字楼, 开发区",
    ),
    domain(
        "sport",
        "sports",
        people="球迷, 教练, 记者 | 裁判, 解说员, 领队",
        verbs="击败, 支持, 采访 | 淘汰, 战胜, 看好",
        things="湖人, 公牛, 勇士, 冠军 | 对手, 新秀, 劲旅, 主队",
        adjectives="强大, 顽强, 出色 | 疲惫, 自信, 凶悍",
        places="球场, 体育馆, 决赛 | 看台, 更衣室, 集训地",
    ),
    domain(
        "stage",
        "art",
        people="演员, 编剧, 歌手 | 主持人, 名角, 丑角",
        verbs="表演, 排练, 编写 | 构思, 朗诵, 抖出",
        things="相声, 段子, 小品, 京剧 | 台词, 笑话, 魔术, 快板",
        adjectives="精彩, 滑稽, 动听 | 幽默, 逗乐, 巧妙",
        places="剧场, 茶馆, 夜总会 | 礼堂, 庙前, 电视晚宴",
    ),
    domain(
        "space",
        "technology",
        people="宇航员, 科学家, 设计师 | 总指挥, 操作手, 质检工",
        verbs="发射, 设计, 观测 | 回收, 操控, 组装",
        things="卫星, 飞船, 探测器, 望远镜 | 轨道舱, 登陆舱, 月球车, 推进剂",
        adjectives="巨大, 精密, 昂贵 | 轻巧, 可靠, 高耸",
        places="太空, 基地, 发射场 | 轨道旁, 车间, 戈壁",
    ),
    domain(
        "car",
        None,
        people="司机, 车主, 修理工 | 赛手, 交警, 乘客",
        verbs="停放, 发动, 修理 | 转让, 保养, 驾驶",
        things="轿车, 卡车, 出租车, 面包车 | 摩托, 巴士, 吉普, 奔驰",
        adjectives="省油, 结实, 宽敞 | 耐用, 舒适, 气派",
        places="车库, 公路, 停车场 | 隧道, 收费站, 立交桥",
    ),
    domain(
        "luggage",
        None,
        people="旅客, 搬运工, 老奶奶 | 挑夫, 流浪汉, 难民",
        verbs="打开, 背起, 收拾 | 丢下, 整理, 藏好",
        things="行李, 箱子, 篮子, 口袋 | 竹筐, 被褥, 布匹, 棉衣",
        adjectives="沉重, 破旧, 笨拙 | 鼓胀, 厚实, 肮脏",
        places="码头, 车厢, 月台 | 驿站, 路边, 渡船",
    ),
    domain(
        "medicine",
        None,
        people="医生, 护士, 专家 | 药剂师, 检疫员, 郎中",
        verbs="化验, 预防, 控制 | 抑止, 消灭, 查明",
        things="流感, 肺炎, 细菌, 高烧 | 疟疾, 霍乱, 癌症, 寄虫",
        adjectives="严重, 危险, 致命 | 顽固, 可怕, 罕见",
        places="医院, 诊所, 急诊室 | 隔离区, 药店, 康复站",
    ),
)

WORDS = {
    "苹果": {"水果": "food", "公司": "computer"},
    "小米": {"粮食": "food", "公司": "computer"},
    "杜鹃": {"鸟": "animal", "花": "plant"},
    "包袱": {"笑料": "stage", "行李": "luggage"},
    "黑马": {"动物": "animal", "选手": "sport"},
    "海马": {"动物": "animal", "汽车": "car"},
    "猎豹": {"动物": "animal", "汽车": "car"},
    "火箭": {"航天": "space", "球队": "sport"},
    "病毒": {"疾病": "medicine", "程序": "computer"},
}

TRAIN_FRAMES = (
    "{person}在{place}{verb}了{thing}。",
    "昨天，{person}{verb}了{thing}和{other}。",
    "{thing}很{adjective}，所以{person}{verb}了它。",
    "在{place}，{person}{verb}了{adjective}的{thing}。",
    "除了{person}，没有人{verb}过{thing}。",
    "{person}先遇到{other}，然后{verb}了{thing}。",
)
TEST_FRAMES = (
    "今天早上，{person}还没{verb}{thing}，就离开{place}了。",
    "正是这位{person}在{place}{verb}了{adjective}的{thing}。",
    "{thing}终于被{person}{verb}了。",
    "{person}来到{place}的时候，{thing}很{adjective}。",
    "我们向{person}打听{thing}和{other}。",
    "不久，{adjective}的{thing}在{place}被{verb}了。",
)
CORPUS_FRAMES = (
    "{place}有{adjective}的{thing}，也有{other}。",
    "每位{person}都喜欢{adjective}的{thing}。",
    "{person}和{person2}在{place}一起{verb}了{thing}。",
    "在{place}，{thing}比{other}更{adjective}。",
    "说到{thing}，{person}就想起了{other}。",
    "{person}对{thing}很感兴趣，因为它很{adjective}。",
)

KINDS = {
    "PER": kind(
        predicates="笑了起来, 生了孩子, 考上了大学, 睡得很晚 | 打了个喷嚏, 结婚了, 哭得伤心, 忘记带伞",
        nouns="妈妈, 妹妹, 同学 | 孙女, 婚礼, 童年",
        names="王芳, 李明, 张伟, 刘洋, 陈静, 赵强 | 孙丽, 周杰, 吴刚, 郑敏, 冯磊, 许婷",
    ),
    "ORG": kind(
        predicates="发布了产品, 股价上涨, 增加了利润, 起诉了对手公司 | 招聘了员工, 宣布破产, 失去了客户, 裁掉了部门",
        nouns="股东, 总部, 商标 | 客户, 董事长, 员工",
        names="华为, 腾讯, 百度, 海尔, 索尼, 中兴 | 京东, 格力, 网易, 三星, 搜狐, 丰田",
    ),
    "LOC": kind(
        predicates="下了大雨, 人口很多, 在海边, 夏天十分炎热 | 发生了地震, 风景优美, 常年积雪, 古迹众多",
        nouns="街道, 郊区, 气候 | 市长, 机场, 夜景",
        names="北京, 上海, 广州, 西安, 大连, 昆明 | 南京, 天津, 杭州, 成都, 苏州, 沈阳",
    ),
}
AMBIGUOUS_NAMES = {
    "黄河": ("PER", "LOC"),
    "泰山": ("PER", "LOC"),
    "华山": ("PER", "LOC"),
    "米兰": ("PER", "LOC"),
    "江南": ("PER", "LOC"),
    "李宁": ("PER", "ORG"),
    "福特": ("PER", "ORG"),
    "迪士尼": ("PER", "ORG"),
    "茅台": ("ORG", "LOC"),
    "青岛": ("ORG", "LOC"),
    "长安": ("ORG", "LOC"),
    "罗马": ("ORG", "LOC"),
    "苹果": ("ORG", "O"),
    "小米": ("ORG", "O"),
}
NAME_FRAMES = (
    ("{X}{vp}。", "{X}的{n}{tail}。", "据报道，{X}{vp}，但是{Y}{vp2}。", "{X}的{n}{tail}，而且{Y}{vp2}。"),
    ("听说{X}{vp}。", "如今{X}的{n}{tail}。", "{X}{vp}，同时{Y}{vp2}。", "{X}{vp}，不过{Y}的{n2}{tail}。"),
)
TAILS = (("让大家吃惊", "上了电视", "给人印象很深"), ("出了名", "成了新闻", "令读者开心"))


def spell(word: str, domain: str) -> str:
    return word


def fill(frame: str, slots: Slots) -> str:
    """The sentence that `frame` makes of `slots`."""
    return frame.format_map(vars(slots) | {"thing": HOLE})


def text(words: Sequence[str]) -> str:
    return "".join(words)


CHINESE = Language(
    "zh",
    DOMAINS,
    WORDS,
    (TRAIN_FRAMES, TEST_FRAMES),
    CORPUS_FRAMES,
    KINDS,
    AMBIGUOUS_NAMES,
    NAME_FRAMES,
    TAILS,
    spell,
    fill,
    list,
    text,
)
