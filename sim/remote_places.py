"""More places far from cables than the eight of `sim.sites`: airfields of small settlements, as data.

Chosen once, from the 7,884 airfields with an IATA code of the package airportsdata 20260905 (MIT licence):
those with land for 3 km around (the package global-land-mask, 1 km cells), not over 25 km off the land of
`coastline.json`, no town of 30,000 within 25 km and no city of 100,000 within 70 km (GeoNames), at most 40 of
one country. Each is, of all of those, the one furthest from the eight and from those before it, so that the
first ones of any number are spread over the globe; the last is 190 km from its nearest.
"""

# Name, WGS84 latitude and longitude in degrees, height in metres above the sea.
REMOTE_PLACES = """
Noumea -22.015 166.213 16; Kamuela 20.001 -155.668 814; Kuala-Kurun -1.129 113.873 35
Bisbee 31.369 -109.884 1460; Anadyr 64.735 177.741 59; Savonlinna 61.943 28.945 95
Nkaus -30.022 28.197 1713; Busselton -33.688 115.402 17; Villa-Dolores -31.945 -65.146 563
Itubera -13.732 -39.142 4; Hit 33.786 42.441 188; Ambunti -4.216 142.823 15; Marsh-Harbour 26.511 -77.084 2
Weerawila 6.254 81.235 15; Nakashibetsu 43.578 144.96 71; Omboue -1.575 9.263 10
Terrace 54.468 -128.576 217; Boun-Neau 21.648 101.9 930; Alexandra -45.212 169.373 229
Mandritsara -15.833 48.833 307; Killarney 52.181 -9.524 34; Cordillo-Downs -26.745 140.638 38
Union-Glacier -79.778 -83.321 750; Khatanga 71.978 102.491 29; Rhinelander 45.631 -89.467 495
Bonthe 7.532 -12.519 4; Huatulco 15.775 -96.263 141; Duqm 19.502 57.634 117; El-Calafate -50.336 -72.249 223
Kondinskoye 59.655 67.43 40; Kastoria 40.446 21.282 661; Ati 13.239 18.313 332; Caceres -16.044 -57.63 150
Greenwood 44.984 -64.917 28; Zambezi -13.536 23.108 1078; San-Juan-de-Marcona -15.352 -75.137 44
Aldan 58.603 125.409 683; Soure -0.699 -48.521 13; Amenas 28.052 9.643 563; Kununurra -15.778 128.708 44
Rio-Hato 8.38 -80.13 32; Kasba-Lake 60.292 -102.502 345; Abu-Simbel 22.376 31.612 188
Arctic-Village 68.115 -145.579 638; Diapaga 12.05 1.783 290; Siglufjordur 66.133 -18.917 3
Livingston 45.699 -110.448 1420; Fort-Polk 31.045 -93.192 101; Shuozhou 39.273 112.691 1043
Eil 7.917 49.8 247; King-Cove 55.116 -162.267 45; Magadan 59.911 150.72 175; Zarafshan 41.614 64.233 426
Thule 76.531 -68.703 77; Taman-Negara 4.33 102.395 3; West-Sale -38.092 146.965 28
Joacaba -27.171 -51.553 776; Karratha -20.712 116.773 9; Ikela -1.2 23.283 391; Delingha 37.125 97.269 2936
Usharal 46.19 80.831 394; Larz 53.306 12.752 67; Macara -4.378 -79.941 460; Luderitz -26.687 15.243 139
Gelephu 26.885 90.464 301; Viseu 40.725 -7.889 628; Monkey-Bay -14.084 34.92 482; Ukiah 39.126 -123.201 188
Kowanyama -15.486 141.751 11; Gordonsville 38.156 -78.166 138; Dalbandin 28.878 64.4 853
Bor 61.59 89.994 65; Bemichi 7.7 -59.167 29; Radisson 53.625 -77.704 195; Chokurdah 70.623 147.902 46
Ballina -28.834 153.562 2; Bovanenkovo 70.315 68.334 7; Kaitaia -35.07 173.285 82; Abs 16.011 43.178 198
Bajawa -8.709 121.057 443; Boutilimit 17.533 -14.683 37; Great-Bear-Lake 66.703 -119.707 171
Hill-City 39.38 -99.831 682; Jacareacanga -6.233 -57.777 98; Le-Castellet 44.388 6.61 1132
Sierra-Grande -41.592 -65.339 210; Arxan 47.311 119.912 889; Quijarro -20.446 -66.848 3394
Tulum 20.167 -87.667 20; Bekily -24.236 45.305 387; El-Alamein 30.924 28.461 44; Bazhong 31.738 106.645 550
Niquelandia -14.435 -48.492 840; Forde 61.391 5.757 319; Lamerd 27.373 53.189 408
Goose-Bay 53.319 -60.426 49; Ayers-Rock -25.186 130.976 496; Mount-Pleasant -51.823 -58.447 74
Dauphin 51.101 -100.052 304; Boca-do-Acre -8.835 -67.312 120; Batsfjord 70.6 29.691 149
Erbogachen 61.275 108.03 122; Dinder 12.533 35.067 500; Al-Dawadmi 24.45 44.121 924
In-Guezzam 19.567 5.75 400; Santa-Teresita -36.542 -56.722 3; Saravena 6.95 -71.856 205
Zhigansk 66.796 123.361 89; Moranbah -22.058 148.077 235; Ondangwa -17.878 15.953 1097
Drayton-Valley 53.266 -114.96 846; Overberg -34.555 20.251 16; Leshukonskoye 64.896 45.723 67
Lock -33.544 135.693 107; Soldotna 60.475 -151.04 35; Pamol 5.999 117.4 11; Guadalupe -6.782 -43.582 172
Harrisburg 37.811 -88.55 121; Pembroke 45.864 -77.252 161; Yalinga 6.52 23.26 602; Okha 53.52 142.89 35
Hoskins -5.462 150.405 20; Timimoun 29.237 0.276 313; Chehalis 46.677 -122.983 54; Qiemo 38.149 85.533 1252
Milford 38.427 -113.013 1537; Nara 15.217 -7.267 271; Moultrie 31.086 -83.803 91
Dalanzadgad 43.592 104.43 1459; Faro 62.208 -133.376 717; Alldays -22.679 29.055 792
Taylor 65.679 -164.799 134; Mamfe 5.704 9.306 126; Las-Lomitas -24.721 -60.549 130; Siuna 13.727 -84.778 185
Leonora -28.878 121.315 371; Tres-Esquinas 0.746 -75.234 178; Kasaba-Bay -8.525 30.663 847
Angling-Lake 53.849 -89.579 217; Sarmellek 46.686 17.159 124; Bozoum 6.344 16.322 675
Ozona 30.735 -101.202 724; Dolpa 28.986 82.819 2499; Chanaral -26.332 -70.607 30; Gamboma -1.829 15.885 460
Ghanzi -21.692 21.658 1137; Bangda 30.554 97.108 4334; Kilaguni -2.911 38.065 838
Coral-Harbour 64.193 -83.359 64; Maripasoula 3.658 -54.037 124; Qitai 44.183 89.594 661
Kyauktu 21.4 94.133 381; Zangilan 39.094 46.734 484; Ancud -41.904 -73.797 96
Cumaru-do-Norte -8.7 -51.174 334; Tennant-Creek -19.634 134.183 377; Ouango-Fitini 9.6 -4.05 297
Mo-i-Rana 66.364 14.301 70; Kariba -16.52 28.885 520; Monte-Caseros -30.272 -57.64 52
Hay-River 60.84 -115.783 165; Nzagi -7.717 21.358 741; Igarka 67.437 86.622 25; Baures -13.583 -63.583 143
Tabou 4.438 -7.363 12; Darwaz 38.461 70.882 1600; Requena -5.067 -73.867 120; Hanak 25.628 37.089 50
Zhongwei 37.573 105.154 2500; Monkey-Mia -25.894 113.577 34; Kelafo 5.657 44.35 527; Mohe 52.913 122.43 560
Dalaman 36.713 28.793 6; Nhulunbuy -12.269 136.818 59; Borrego-Springs 33.259 -116.321 159
Aberdeen 45.447 -98.422 397; Gander 48.937 -54.568 151; Dracena -21.46 -51.607 372
Chakcharan 34.533 65.267 2250; Espanola 36.026 -106.045 1756; Monte-Alegre -1.996 -54.074 99
Keperveem 67.845 166.14 190; Fderik 22.667 -12.733 293; Sayun 15.966 48.788 639; Hearst 49.714 -83.686 252
Cloncurry -20.669 140.504 188; Nachingwea -10.357 38.779 427; Rome 42.578 -117.885 1235
Baucau -8.489 126.401 540; Soderhamn 61.261 17.099 27; Tuntutuliak 60.351 -162.655 5
Chos-Malal -37.445 -70.222 850; Inta 66.055 60.11 56; Pinehouse-Lake 55.528 -106.582 390
Lannion 48.754 -3.472 88; Sishen -27.649 22.999 1173; Wairoa -39.007 177.407 13; Tasiujaq 58.668 -69.956 37
Koundara 12.573 -13.358 90; Broken-Hill -32.001 141.472 292; Playa-Grande 15.998 -90.742 176
Parkes -33.131 148.239 326; Siloam-Springs 36.192 -94.49 363; Saratoga 41.444 -106.828 2138
Zyryanka 65.737 150.705 55; Baker-Lake 64.299 -96.078 18; Sovetskaya-Gavan 48.927 140.034 234
Swift-Current 50.292 -107.691 817; Puerto-Deseado -47.735 -65.904 82; Thompson 55.801 -97.864 222
Altai 46.376 96.221 2213; Apolo -14.736 -68.412 1414; Atalaya -10.729 -73.766 579; Caro 43.459 -83.445 215
Atqasuk 70.467 -157.436 31; Juara -11.287 -57.539 302; Forestville 48.746 -69.097 89
Masslo 6.408 39.724 1274; Charleville -26.413 146.262 306; Tamchy 42.588 76.713 1654
Tanacross 63.374 -143.329 475; Yotvata 29.906 35.067 91; Bodaybo 57.866 114.243 280
Belo-sur-Tsiribihina -19.687 44.542 47; Kaintiba -7.5 146.034 625; Oskaloosa 41.226 -92.494 256
Minvoul 2.15 12.133 600; Bonito -21.229 -56.456 360; Inuvik 68.304 -133.483 68; Rio-Hondo -27.474 -64.906 82
Olenyok 68.515 112.48 258; Dryden 49.832 -92.744 413; Fort-Saint-John 56.238 -120.74 695
Jiwani 25.068 61.805 57; Diavik 64.511 -110.289 431; Plymouth 43.778 -71.754 154; Thisted 57.069 8.705 7
Georgetown 33.311 -79.32 12; El-Debba 18.025 30.958 257; Kithira 36.274 23.017 319
Mucuri -18.049 -39.864 84; Lethem 3.373 -59.789 107; Columbus 33.465 -88.381 57; Creston 49.037 -116.498 631
Barra -11.081 -43.148 410; Cayo-Santa-Maria 22.621 -79.147 4; Balmaceda -45.916 -71.689 525
Bahia-Inutil -54.045 -68.832 180; Barcelos -0.981 -62.92 34; Inukjuak 58.472 -78.077 25
Arandis -22.462 14.98 581; Pataz -7.872 -77.547 2591; Waana 32.305 69.57 1387
Coronel-Suarez -37.446 -61.889 234; Altus 34.699 -99.338 437; Phinda -27.849 32.31 49
Bishop 37.373 -118.364 1257; Erenhot 43.422 112.097 1006; Kabalega-Falls 2.326 31.498 721
Williams-Lake 52.183 -122.054 940; Santa-Vitoria-do-Palmar -33.502 -53.344 25; Barreirinhas -2.756 -42.81 12
Nyurba 63.295 118.337 120; Yakutat 59.503 -139.66 12; Greeneville 36.196 -82.811 490
Puerto-Inirida 3.854 -67.906 140; Kuusamo 65.988 29.239 264; Dease-Lake 58.422 -130.032 792
Schefferville 54.805 -66.805 521; Aggeneys -29.282 18.814 807; Ruby 64.727 -155.47 200
Carauari -4.872 -66.897 108; Suki -8.047 141.722 7; Mae-Hong-Son 19.372 98.437 387; Caruru 1.014 -71.296 250
Betou 3.05 18.5 356; Canaima 6.232 -62.854 442; Muneambuanas -18.117 23.393 958; Sebring 27.456 -81.342 19
Newman -23.418 119.803 525; Carolina -7.32 -47.459 172; Tichitt 18.45 -9.517 171; Thumrait 17.666 54.025 479
Nicoya 9.976 -85.653 10; Wrigley 63.209 -123.437 149; Matagami 49.762 -77.803 280
Wellsville 42.11 -77.99 648; Belaga 2.65 113.767 61; Cottonwood 34.73 -112.035 1085
Malad-City 42.17 -112.293 1373; Canarana -13.574 -52.271 401; Djanet 24.293 9.452 968
Birao 10.236 22.717 517; Caransebes 45.42 22.253 264; Espinosa -14.934 -42.81 579; Ilaka -19.583 48.803 10
The-Granites -20.548 130.347 396; Hongyuan 32.529 102.357 3535; Kalima -2.578 26.734 551
Fincha 9.583 37.35 2316; Sui 28.645 69.177 233; El-Borma 31.704 9.255 252; Makabana -3.483 12.617 151
Salluit 62.179 -75.667 226; Tougan 13.067 -3.067 300; Churchill 58.739 -94.065 29; Hommalinn 24.9 94.914 163
Tashkurgan 37.663 75.292 3200; Urengoy 65.96 78.437 17; Phaplu 27.518 86.584 2413
Manicore -5.811 -61.278 53; Tarauaca -8.155 -70.783 197; Khovd 47.954 91.628 1493; Ceres -29.863 -61.873 87
Ariquemes -10.178 -62.826 125; Longreach -23.434 144.28 191; Bahia-Solano 6.203 -77.395 24
San-Jose-de-Chiquitos -17.831 -60.743 297; Daly-Waters -16.265 133.383 213; Andoas -2.796 -76.467 222
Tocopilla -22.141 -70.063 1059; Belluno 46.167 12.248 378; Masai-Mara -1.406 35.008 1585
Fort-Mackay 57.382 -111.701 279; Iberia -11.412 -69.489 229; Biloela -24.494 150.576 196
Moree -29.499 149.845 214; Yeniseysk 58.474 92.112 77; Badanjilin 39.225 101.546 1420
Dianopolis -11.595 -46.847 610; Vallegrande -18.483 -64.099 1997; Putao 27.33 97.426 457
Guapi 2.57 -77.899 50; Tambao 14.8 0.05 250; Olympic-Dam -30.485 136.877 105; Yelimane 15.133 -10.567 99
Taree -31.889 152.514 12; Ingeniero-Jacobacci -41.321 -69.575 892; Totness 5.866 -56.328 3
Naryan-Mar 67.64 53.122 11; Bousso 10.483 16.717 335; Kiri -1.435 19.024 309; Malselv 69.056 18.54 77
Zhaosu 43.09 81.229 1773; Malamala -24.818 31.545 343; Honuu 66.451 143.262 200
Olyokminsk 60.398 120.471 200; Fahud 22.355 56.484 168; Gaspe 48.775 -64.479 34; Tisdale 52.837 -104.067 465
Mfuwe -13.259 31.937 565; Shay-Gap -20.425 120.141 189; Siwa 29.346 25.507 101
Alice-Springs -23.807 133.902 545; Fort-Liard 60.236 -123.469 216; Kauhava 63.127 23.051 46
Labrea -7.279 -64.769 58; Elliot-Lake 46.351 -82.561 331; Port-Alberni 49.322 -124.931 76
Shiquanhe 32.1 80.053 4274; Daporijo 27.985 94.223 229; Mboki 5.333 25.932 600
Arvaikheer 46.25 102.802 1808; Ngoma -15.966 25.933 1036; Roros 62.578 11.342 626; Maues -3.372 -57.725 21
Voinjama 8.4 -9.767 427; Afore -9.142 148.391 762; Obbia 5.367 48.517 20; Coto-Brus 8.826 -82.959 984
Haverfordwest 51.833 -4.961 48; Weipa -12.679 141.925 19; Beica 9.386 34.522 1649; Lensk 60.721 114.826 244
Armenia 6.21 -74.591 145; Matupa -10.17 -54.953 270; La-Pedrera -1.329 -69.58 180
Lidkoping 58.465 13.174 61; Hwange -18.63 27.021 1080; N'Dele 8.427 20.635 497; Maji 5.833 35.533 762
Grootfontein -19.602 18.123 1413; Chitral 35.887 71.801 1500; Mariscal-Estigarribia -22.05 -60.62 169
Lastourville -0.827 12.749 483; Bulgan 48.855 103.476 1314; Chaparral 3.717 -75.467 832
Gobabis -22.504 18.973 1442; Keetmanshoop -26.54 18.111 1069; Carutapera -1.25 -46.017 26
Cristalandia -11.572 -50.666 197; Sapezal -13.466 -58.867 553; Novo-Progresso -7.126 -55.401 242
Horizontina -27.638 -54.339 324; Zabre 11.167 -0.617 270; El-Molino 14.597 -88.594 252
Gordon-Downs -18.678 128.592 244; Enniskillen 54.399 -7.652 47; Tymovskoye 50.669 142.761 146
Fonte-Boa -2.533 -66.083 63; Puerto-Lopez 4.564 -71.336 213; Kittila 67.701 24.847 196
Scusciuban 10.3 50.233 342; Sayaboury 19.233 101.733 380; Garze 31.758 99.554 4068
Cooma -36.301 148.974 941; Andahuaylas -13.706 -73.35 3444; Long-Sukang 4.552 115.494 366
Hola -1.522 40.004 59; Ascension-de-Guarayos -15.93 -63.157 246; Santa-Cruz -50.017 -68.579 111
Vredendal -31.641 18.545 101; Nordfjordur 65.132 -13.746 4; Koumac -20.546 164.256 13
Lucas-do-Rio-Verde -13.038 -55.95 410; Matam 15.594 -13.323 26; Cassilandia -19.146 -51.685 478
Alto-Parnaiba -9.084 -45.951 295; Lencois -12.482 -41.277 511; Oriximina -1.49 -56.397 87
Xiahe 34.819 102.622 3203; Imbaimadai 5.708 -60.294 502; Yushu 32.836 97.036 3906; Pucon -39.293 -71.916 260
Marsa-Alam 25.557 34.584 77; Roma -26.545 148.775 315; Alto-Palena -43.612 -71.806 242
Akjoujt 19.733 -14.383 123; Quince-Mil -13.233 -70.753 624; Batangafo 7.314 18.309 420
Moro -6.363 143.238 835; Arvidsjaur 65.59 19.282 379; Tanandava -21.7 43.733 27
Belaya-Gora 68.557 146.231 27; Mareb 15.469 45.327 1006; Koolburra -15.319 143.955 107
Narrandera -34.702 146.512 144; Mekambo 1.017 13.933 514; Kabala 9.638 -11.516 308
Alexander-Bay -28.575 16.533 30; Luozi -4.95 14.133 220; Ruoqiang 38.975 88.008 890; Andros 24.159 -77.59 5
Moudjeria 17.75 -12.5 78; Tosontsengel 48.739 98.294 1708; Spanish-Lookout 17.278 -89.024 105
Prieska -29.684 22.771 945; Vichadero -31.767 -54.617 149; Baitadi 29.465 80.549 1280
N'Djole -0.183 10.75 50; San-Ignacio-de-Moxos -14 -65.634 241; Lenskiy-Ulus 59.882 111.046 405
Senanga -16.1 23.267 1027; Malargue -35.494 -69.574 1428; Regina 4.315 -52.132 25; Likoma -12.083 34.733 488
Tarin-Kowt 32.604 65.866 1350; Cherskiy 68.741 161.338 6; Las-Heras -46.538 -68.965 330
Kiunga -6.126 141.282 27; Araracuara -0.583 -72.408 381; Colonia-Catriel -37.91 -67.835 313
Panjgur 26.954 64.132 1002; Moengo 5.608 -54.4 15; Hawker -31.856 138.468 98
Casigua-El-Cubo 8.758 -72.536 30; Moabi -2.433 11 240; Aiome -5.146 144.731 107
Kalgoorlie -30.789 121.462 367; Paraburdoo -23.171 117.745 429; Bahia-Negra -20.225 -58.179 84
Morafenobe -17.85 44.92 228; Vojens 55.226 9.264 43; Holingol 45.487 119.407 975; Makoua -0.017 15.583 394
Bogande 12.983 -0.167 300; Pindiu -6.445 147.516 913; Ahuas 15.472 -84.352 30; Tarapoto -6.509 -76.373 265
Kalemyo 23.189 94.051 152; Palmarito 7.567 -70.183 106; Hamar 60.818 11.068 217
Lago-Agrio 0.093 -76.868 299; Kasikasima 3.15 -55.717 182; Pica -20.75 -68.683 3800
Aioun-El-Atrouss 16.711 -9.638 290; Sucua -2.483 -78.167 950; Turukhansk 65.797 87.935 39
Corrientes -3.806 -75.039 130; Ouadda 8.011 22.399 750; Chulman 56.914 124.914 857
Kasane -17.833 25.162 1002
"""
